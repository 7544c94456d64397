import HTTPTypes
import Model
import Synchronization

/// Status and headers of a response, with those that every response has.
struct ResponseHead: Sendable {
    private(set) var http: HTTPResponse

    /// - Parameter contentLength: nil for the statuses that have no body (204, 304).
    init(_ status: Int, contentLength: Int?) {
        precondition((100...599).contains(status), "a status of HTTP has three digits")
        http = HTTPResponse(status: .init(code: status))
        if let contentLength { set("Content-Length", String(contentLength)) }
    }

    /// Sets a header. A value that HTTP has no place for (a line break) is made harmless by the
    /// type of the field.
    mutating func set(_ name: String, _ value: String) {
        guard let name = Self.known[name] ?? HTTPField.Name(name) else { return }
        http.headerFields[name] = value
    }

    /// Names that most responses have: a name costs more to check than to find.
    private static let known: [String: HTTPField.Name] = {
        let names = [
            "x-amz-request-id", "x-amz-id-2", "Date", "Server", "Content-Length", "Content-Type",
            "ETag", "Last-Modified", "Accept-Ranges", "Content-Range", "x-amz-mp-parts-count",
        ]
        return Dictionary(
            uniqueKeysWithValues: names.compactMap { name in
                HTTPField.Name(name).map { (name, $0) }
            })
    }()

    mutating func set(_ name: String, ifPresent value: String?) {
        if let value { set(name, value) }
    }
}

/// The text of the `Date` header, which is the same for all responses of a second.
enum CurrentDate {
    private static let last = Mutex<(second: Int64, text: String)>((.min, ""))

    static func text(_ now: Timestamp) -> String {
        let second = now.milliseconds / 1000
        return last.withLock { last in
            if last.second != second { last = (second, DateText.http(now)) }
            return last.text
        }
    }
}

/// Numbers for the identities of requests: unlike those of any other process, and no secret. A
/// system call for each would cost more than all else that is done for them.
struct RequestNumbers: RandomNumberGenerator {
    private static let seed = SystemRandomNumberGenerator.word()
    private static let count = Atomic<UInt64>(0)

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
    mutating func next() -> UInt64 {
        let step = Self.count.wrappingAdd(0x9E37_79B9_7F4A_7C15, ordering: .relaxed).oldValue
        var word = Self.seed &+ step
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }
}

extension SystemRandomNumberGenerator {
    fileprivate static func word() -> UInt64 {
        var generator = Self()
        return generator.next()
    }
}

/// The identity of a request, told to the client and written to logs.
struct RequestID: Sendable, CustomStringConvertible {
    /// 16 upper-case hexadecimal digits.
    let description: String
    /// The same 64 bits, which all roles know the request by; never 0.
    let traceID: UInt64
    /// The second, longer identity that S3 gives.
    let extended: String

    init(using generator: inout some RandomNumberGenerator) {
        let word = max(1, generator.next())
        traceID = word
        description = Hex.encode(bigEndian(word)).uppercased()
        extended = Base64.encode((0..<5).flatMap { _ in bigEndian(generator.next()) })
    }
}
