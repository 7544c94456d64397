import HTTPTypes

/// The head of a request, taken apart: what routing, signing and the operations look at.
struct S3Request: Sendable {
    struct QueryItem: Hashable, Sendable {
        /// Decoded.
        var name: String
        /// Decoded bytes; empty if there was no equals sign.
        var value: [UInt8]
    }

    /// Upper case, as sent.
    let method: String
    /// As sent, without the query.
    let rawPath: String
    /// The path, percent-decoded.
    let pathBytes: [UInt8]
    let queryItems: [QueryItem]
    /// By lower-case name; values of repeated headers are joined with a comma.
    private let headers: [String: String]
    /// Headers that the maker of a presigned URL moved into its query, by lower-case name.
    private let hoisted: [String: String]

    /// `invalidURI` if the path or the query cannot be decoded.
    init(_ head: HTTPRequest) throws(S3Error) {
        var headers: [String: String] = [:]
        headers.reserveCapacity(head.headerFields.count + 1)
        for field in head.headerFields {
            let name = field.name.canonicalName
            if let former = headers[name] {
                headers[name] = "\(former),\(field.value)"
            } else {
                headers[name] = field.value
            }
        }
        if let authority = head.authority { headers["host"] = authority }
        try self.init(
            method: head.method.rawValue, target: head.path ?? "/", headers: headers)
    }

    /// - Parameters:
    ///   - target: path and query as on the request line.
    ///   - headers: by lower-case name.
    init(method: String, target: String, headers: [String: String]) throws(S3Error) {
        self.method = method
        self.headers = headers
        let question = target.firstIndex(of: "?")
        let path = target[..<(question ?? target.endIndex)]
        guard path.hasPrefix("/"), let pathBytes = PercentEncoding.decode(path) else {
            throw S3Error(.invalidURI, "Couldn't parse the specified URI: the path is not valid.")
        }
        rawPath = String(path)
        self.pathBytes = pathBytes
        var items: [QueryItem] = []
        if let question {
            for part in target[target.index(after: question)...].split(separator: "&") {
                let equals = part.firstIndex(of: "=")
                let rawValue = equals.map { part[part.index(after: $0)...] } ?? ""
                guard
                    let name = PercentEncoding.decode(
                        part[..<(equals ?? part.endIndex)], plusIsSpace: true),
                    let nameText = String(validating: name, as: UTF8.self),
                    let value = PercentEncoding.decode(rawValue, plusIsSpace: true)
                else {
                    throw S3Error(
                        .invalidURI, "Couldn't parse the specified URI: the query is not valid.")
                }
                items.append(QueryItem(name: nameText, value: value))
            }
        }
        queryItems = items
        hoisted = Self.hoistedHeaders(items)
    }

    /// Parameters of a query that sign it and are no headers.
    private static let signingParameters: Set<String> = [
        "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires",
        "x-amz-signedheaders", "x-amz-signature", "x-amz-security-token", "x-amz-content-sha256",
    ]

    private static func hoistedHeaders(_ items: [QueryItem]) -> [String: String] {
        let isVersion2 = items.contains { $0.name == "AWSAccessKeyId" }
        var hoisted: [String: String] = [:]
        for item in items {
            let name = item.name.lowercased()
            let isHeader =
                (name.hasPrefix("x-amz-") && !signingParameters.contains(name))
                || (isVersion2 && (name == "content-type" || name == "content-md5"))
            if isHeader { hoisted[name] = String(decoding: item.value, as: UTF8.self) }
        }
        return hoisted
    }

    /// The value of a header by its lower-case name, sent as one or moved into the query.
    func header(_ name: String) -> String? { headers[name] ?? hoisted[name] }

    /// The names of all headers, those moved into the query included.
    var headerNames: [String] {
        Array(headers.keys) + hoisted.keys.filter { headers[$0] == nil }
    }

    /// The names of the headers that were sent as such.
    var sentHeaderNames: [String] { Array(headers.keys) }

    func hasQuery(_ name: String) -> Bool { queryItems.contains { $0.name == name } }

    /// The first value of a query parameter; empty if it has none.
    func queryBytes(_ name: String) -> [UInt8]? {
        queryItems.first { $0.name == name }?.value
    }

    func query(_ name: String) -> String? {
        queryBytes(name).map { String(decoding: $0, as: UTF8.self) }
    }

    /// A whole number in a query parameter, within `range`.
    func queryInt(_ name: String, in range: ClosedRange<Int>) throws(S3Error) -> Int? {
        guard let text = query(name) else { return nil }
        guard let value = Int(text), range.contains(value) else {
            throw S3Error.invalidArgument(
                name, text,
                "\(name) must be a whole number from \(range.lowerBound) to \(range.upperBound).")
        }
        return value
    }

    /// The number of bytes announced by `Content-Length`; nil if there is none.
    func contentLength() throws(S3Error) -> Int? {
        guard let text = header("content-length") else { return nil }
        guard let value = Int(text), value >= 0 else {
            throw S3Error.invalidArgument(
                "Content-Length", text, "Content-Length must be a whole number.")
        }
        return value
    }
}
