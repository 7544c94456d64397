/// Where a server listens: `HOST:PORT`, an IPv6 address in brackets.
public struct HostPort: Hashable, Sendable, CustomStringConvertible {
    public var host: String
    public var port: Int

    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// Throws `invalidArgument` with what would be right.
    public init(_ text: String) throws(StoreError) {
        let refusal = StoreError(
            .invalidArgument,
            "'\(text)' is no address: HOST:PORT is, with a port from 1 to 65535, as host1:9862 or "
                + "[::1]:9862")
        guard let colon = text.lastIndex(of: ":"),
            let port = Int(text[text.index(after: colon)...]), (1...65535).contains(port)
        else { throw refusal }
        var host = text[..<colon]
        if host.first == "[", host.last == "]", host.count > 2 {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw refusal
        }
        guard !host.isEmpty, !host.contains(where: \.isWhitespace) else { throw refusal }
        self.host = String(host)
        self.port = port
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
