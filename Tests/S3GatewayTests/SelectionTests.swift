import Client
import Model
import Testing

@testable import S3Gateway

@Suite struct SelectionTests {
    private func selection(
        _ method: String, _ target: String, _ headers: [String: String] = [:]
    ) throws -> KeySelection {
        let request = try S3Request(
            method: method, target: target, headers: headers.merging(["host": "h"]) { $1 })
        return KeySelection(request, readsBytes: method == "GET")
    }

    @Test("a request looks up no more of a key than it reads")
    func selections() throws {
        #expect(try selection("HEAD", "/bucket/k") == .head)
        #expect(try selection("HEAD", "/bucket/k", ["range": "bytes=0-5"]) == .head)
        #expect(try selection("GET", "/bucket/k") == .bytes)
        for method in ["GET", "HEAD"] {
            #expect(try selection(method, "/bucket/k?partNumber=7") == .part(7))
            #expect(try selection(method, "/bucket/k?partNumber=x") == .head)
        }
        let ranges: [(String, KeySelection)] = [
            ("bytes=0-0", .range(from: 0, to: 1)), ("bytes=5-9", .range(from: 5, to: 10)),
            ("bytes=5-", .range(from: 5, to: nil)), ("bytes=-8", .suffix(8)),
            ("bytes=0-99999999999999999999999", .range(from: 0, to: nil)),
            // What is passed over reads the whole.
            ("bytes=5-4", .bytes), ("bytes=1-2,4-5", .bytes), ("items=0-1", .bytes),
        ]
        for (header, expected) in ranges {
            #expect(try selection("GET", "/bucket/k", ["range": header]) == expected)
            // The key decides whether the range counts.
            let conditional = ["range": header, "if-range": "\"e\""]
            #expect(try selection("GET", "/bucket/k", conditional) == .bytes)
        }
    }

    @Test("what a range resolves to lies within what is looked up for it")
    func resolved() throws {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            let length = Int.random(in: 0...20, using: &random)
            let numbers = (0..<2).map { _ in
                [Int.random(in: 0...25, using: &random), Int.max].randomElement() ?? 0
            }
            let header =
                [
                    "bytes=\(numbers[0])-\(numbers[1])", "bytes=\(numbers[0])-",
                    "bytes=-\(numbers[0])",
                ].randomElement() ?? ""
            guard let wanted = ByteRange(header), let range = wanted.resolve(length: length) else {
                continue
            }
            let covered: Range<Int> =
                switch wanted.selection {
                case .range(let start, let end): start..<min(end ?? length, length)
                case .suffix(let count): max(0, length - count)..<length
                default: 0..<0
                }
            #expect(range == covered, "\(header) of \(length)")
        }
    }
}
