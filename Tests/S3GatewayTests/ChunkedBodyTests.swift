import Chance
import Testing

@testable import S3Gateway

/// What a parser made of a body: for comparison, with data of one chunk joined.
private struct Parsed: Equatable {
    var chunks: [[UInt8]] = []
    var signatures: [[UInt8]?] = []
    var trailers: [String] = []
    var ended = 0
    var isComplete = false
}

/// Feeds `body` in pieces that end at `cuts`.
private func parse(
    _ body: [UInt8], cuts: [Int], signed: Bool, trailers: Bool, limit: Int = 1 << 20
) throws(ChunkedBodyError) -> Parsed {
    var parser = ChunkedBodyParser(isSigned: signed, expectsTrailers: trailers, sizeLimit: limit)
    var parsed = Parsed()
    var start = 0
    for end in cuts + [body.count] {
        let piece = Array(body[start..<end])
        start = end
        var events: [(ChunkedBodyParser.Event, [UInt8])] = []
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: piece.count, alignment: 1)
        defer { bytes.deallocate() }
        bytes.copyBytes(from: piece)
        var position = 0
        while let event = try parser.next(in: UnsafeRawBufferPointer(bytes), at: &position) {
            if case .data(let range) = event {
                events.append((event, Array(bytes[range])))
            } else {
                events.append((event, []))
            }
        }
        // A piece is always used up.
        #expect(position == bytes.count)
        for (event, data) in events {
            switch event {
            case .chunk(_, let signature):
                parsed.chunks.append([])
                parsed.signatures.append(signature)
            case .data: parsed.chunks[parsed.chunks.count - 1] += data
            case .chunkEnd: break
            case .trailer(let name, let value): parsed.trailers.append("\(name)=\(value)")
            case .end: parsed.ended += 1
            }
        }
    }
    parsed.isComplete = parser.isComplete
    return parsed
}

private func body(
    _ sizes: [Int], signed: Bool, trailers: [String] = [],
    using random: inout some RandomNumberGenerator
) -> (bytes: [UInt8], chunks: [[UInt8]]) {
    var bytes: [UInt8] = []
    var chunks: [[UInt8]] = []
    for size in sizes + [0] {
        bytes += Array(String(size, radix: 16, uppercase: Bool.random(using: &random)).utf8)
        if signed { bytes += Array(";chunk-signature=\(String(repeating: "ab", count: 32))".utf8) }
        bytes += [13, 10]
        let data = (0..<size).map { _ in UInt8.random(in: 0...255, using: &random) }
        chunks.append(data)
        bytes += data
        if size > 0 { bytes += [13, 10] }
    }
    for trailer in trailers { bytes += Array("\(trailer)\r\n".utf8) }
    return (bytes + [13, 10], chunks)
}

@Suite struct ChunkedBodyTests {
    @Test("chunks come out as they went in, wherever the pieces are cut", arguments: 0..<400)
    func randomCuts(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed) + 1)
        let signed = seed % 2 == 0
        let withTrailers = seed % 3 == 0
        let sizes = (0..<Int.random(in: 0...6, using: &random)).map { _ in
            Int.random(in: 1...400, using: &random)
        }
        var trailers: [String] = []
        if withTrailers {
            trailers.append("x-amz-checksum-crc32: abc=")
            if signed { trailers.append("x-amz-trailer-signature:00") }
        }
        let made = body(sizes, signed: signed, trailers: trailers, using: &random)
        let cuts = (0..<Int.random(in: 0...20, using: &random)).map { _ in
            Int.random(in: 0...made.bytes.count, using: &random)
        }.sorted()
        let parsed = try parse(made.bytes, cuts: cuts, signed: signed, trailers: withTrailers)
        #expect(parsed.chunks == made.chunks, "seed \(seed)")
        #expect(parsed.isComplete && parsed.ended == 1, "seed \(seed)")
        #expect(parsed.trailers.count == trailers.count)
        #expect(parsed.signatures.allSatisfy { ($0 != nil) == signed })
        let whole = try parse(made.bytes, cuts: [], signed: signed, trailers: withTrailers)
        #expect(parsed == whole, "seed \(seed)")
    }

    @Test("a body cut short anywhere is never complete")
    func truncation() throws {
        var random = SeededGenerator(seed: 7)
        let made = body([5, 300], signed: true, using: &random)
        for end in 0..<made.bytes.count {
            let parsed = try parse(
                Array(made.bytes[..<end]), cuts: [], signed: true, trailers: false)
            #expect(!parsed.isComplete, "cut at \(end)")
        }
    }

    @Test(
        "a changed byte is an error, an incomplete body or a change in what comes out",
        arguments: 0..<600)
    func mutations(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed) + 100)
        let signed = seed % 2 == 0
        let made = body([20, 33, 1], signed: signed, using: &random)
        var bytes = made.bytes
        switch seed % 3 {
        case 0:
            let index = Int.random(in: 0..<bytes.count, using: &random)
            bytes[index] ^= UInt8.random(in: 1...255, using: &random)
        case 1: bytes.remove(at: Int.random(in: 0..<bytes.count, using: &random))
        default:
            bytes.insert(
                UInt8.random(in: 0...255, using: &random),
                at: Int.random(in: 0...bytes.count, using: &random))
        }
        let intact = try parse(made.bytes, cuts: [], signed: signed, trailers: false)
        do throws(ChunkedBodyError) {
            let cut = Int.random(in: 0...bytes.count, using: &random)
            let parsed = try parse(bytes, cuts: [cut], signed: signed, trailers: false)
            let total = parsed.chunks.reduce(0) { $0 + $1.count }
            #expect(total <= bytes.count)
            // Only the case of a digit and the last empty line's carriage return say nothing.
            if parsed == intact {
                #expect(Self.meansTheSame(bytes, made.bytes), "seed \(seed)")
            }
        } catch {
            #expect(!error.message.isEmpty)
        }
    }

    private static func meansTheSame(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        let lower = { (bytes: [UInt8]) in
            String(decoding: bytes, as: UTF8.self).lowercased().replacing("\r", with: "")
        }
        return lower(a) == lower(b)
            || lower(a).hasSuffix("\n\n") == false && a.count >= b.count - 1
    }

    @Test("noise never traps, and memory stays within the bounds", arguments: 0..<300)
    func noise(seed: Int) {
        var random = SeededGenerator(seed: UInt64(seed) + 5000)
        let alphabet = Array("0123456789abcdefFF;chunk-signature=\r\n\r\n:x-amz".utf8)
        let bytes = (0..<Int.random(in: 0...3000, using: &random)).map { _ in
            seed % 2 == 0
                ? UInt8.random(in: 0...255, using: &random)
                : alphabet[Int.random(in: 0..<alphabet.count, using: &random)]
        }
        for signed in [false, true] {
            do throws(ChunkedBodyError) {
                let parsed = try parse(bytes, cuts: [], signed: signed, trailers: seed % 4 < 2)
                #expect(parsed.chunks.reduce(0) { $0 + $1.count } <= bytes.count)
            } catch {
                #expect(!error.message.isEmpty)
            }
        }
    }

    @Test("each fault of the framing has its reason")
    func faults() {
        func reason(
            _ text: String, signed: Bool = false, trailers: Bool = false, limit: Int = 100
        ) -> ChunkedBodyError.Reason? {
            do throws(ChunkedBodyError) {
                _ = try parse(
                    Array(text.utf8), cuts: [], signed: signed, trailers: trailers, limit: limit)
                return nil
            } catch {
                return error.reason
            }
        }
        #expect(reason("zz\r\n") == .malformed)
        #expect(reason("\r\n") == .malformed)
        #expect(reason("1\n") == .malformed)
        #expect(reason("1;a=b\r\n") == .malformed)
        #expect(reason("1\r\nab") == .malformed)
        #expect(reason("1\r\na\rb") == .malformed)
        #expect(reason("0\r\n\r\nmore") == .malformed)
        #expect(reason("0\r\na:b\r\n\r\n") == .malformed)
        #expect(reason("1\r\n", signed: true) == .malformed)
        #expect(reason("1;chunk-signature=12\r\n", signed: true) == .malformed)
        #expect(reason("0\r\nnonsense\r\n", trailers: true) == .malformedTrailer)
        #expect(reason("0\r\n:x\r\n", trailers: true) == .malformedTrailer)
        #expect(reason("65\r\n", limit: 100) == .tooLarge)
        #expect(reason("1000000000000000\r\n") == .malformed)
        #expect(reason(String(repeating: "0", count: 2000)) == .tooLarge)
        let many = (0..<17).map { "t\($0):v\r\n" }.joined()
        #expect(reason("0\r\n\(many)\r\n", trailers: true) == .malformedTrailer)
        #expect(reason("64\r\n\(String(repeating: "x", count: 100))\r\n0\r\n\r\n") == nil)
    }
}
