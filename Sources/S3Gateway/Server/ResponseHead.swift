import HTTPTypes
import Model

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
        guard let name = HTTPField.Name(name) else { return }
        http.headerFields[name] = value
    }

    mutating func set(_ name: String, ifPresent value: String?) {
        if let value { set(name, value) }
    }
}

/// The identity of a request, told to the client and written to logs.
struct RequestID: Sendable, CustomStringConvertible {
    /// 16 upper-case hexadecimal digits.
    let description: String
    /// The second, longer identity that S3 gives.
    let extended: String

    init(using generator: inout some RandomNumberGenerator) {
        let word: UInt64 = generator.next()
        description = Hex.encode(bigEndian(word)).uppercased()
        extended = Base64.encode((0..<5).flatMap { _ in bigEndian(generator.next()) })
    }
}
