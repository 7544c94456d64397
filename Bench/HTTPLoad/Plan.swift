import Glibc

/// One HTTP request of a plan, ready to be sent.
struct PlannedRequest: Sendable {
    enum Method: String, Sendable {
        case get = "GET"
        case put = "PUT"
        case head = "HEAD"
        case delete = "DELETE"
    }

    var method: Method
    /// Which content the object has; see `Content`.
    var seed: Int
    /// Where in the object the body begins (of a ranged GET).
    var offset: Int
    /// Bytes of the body: those to be sent with a PUT, those to come back from a GET.
    var bytes: Int
    /// Request line and headers, with the empty line at their end.
    var head: [UInt8]
}

/// What is wrong with the plan or the arguments. The text names what would be right.
struct UsageError: Error {
    var message: String
}

/// The requests that all clients together carry out, in the order in which they are taken.
struct Plan: Sendable {
    var requests: [PlannedRequest] = []

    /// Reads a plan from standard input, one request a line:
    /// `METHOD ⇥ TARGET ⇥ SEED ⇥ OFFSET ⇥ BYTES [⇥ HEADER]…`
    init(standardInputFor host: String, port: Int) throws(UsageError) {
        while let line = readLine() {
            let fields = line.split(separator: "\t", omittingEmptySubsequences: false)
            guard fields.count >= 5,
                let method = PlannedRequest.Method(rawValue: String(fields[0])),
                let seed = Int(fields[2]), let offset = Int(fields[3]), let bytes = Int(fields[4]),
                seed >= 0, offset >= 0, bytes >= 0
            else {
                throw UsageError(
                    message: "line \(requests.count + 1) of the plan is not METHOD, TARGET, SEED, "
                        + "OFFSET, BYTES and headers, divided by tabs")
            }
            var head = "\(method.rawValue) \(fields[1]) HTTP/1.1\r\nHost: \(host):\(port)\r\n"
            if method == .put { head += "Content-Length: \(bytes)\r\n" }
            for header in fields.dropFirst(5) { head += "\(header)\r\n" }
            head += "\r\n"
            requests.append(
                PlannedRequest(
                    method: method, seed: seed, offset: offset, bytes: bytes,
                    head: Array(head.utf8)))
        }
        guard !requests.isEmpty else { throw UsageError(message: "the plan is empty") }
    }
}
