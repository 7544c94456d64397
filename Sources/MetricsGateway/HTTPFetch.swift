import Glibc
import Model

/// Asks a metrics endpoint one thing: enough of an HTTP client for a command line.
///
/// Blocks the calling thread, each step at most `Limits.seconds`.
public enum HTTPFetch {
    public enum Limits {
        /// For connecting, sending and each receiving.
        public static let seconds = 10
        /// Bytes of an answer.
        public static let bytes = 64 << 20
    }

    /// The body of `GET url`, an `http://HOST:PORT/…`; HOST is an IPv4 address or a name.
    ///
    /// Throws `invalidArgument` for another kind of address, `connection` when nobody answers,
    /// `unavailable` for a status other than 200.
    public static func get(_ url: String) throws(StoreError) -> String {
        let rest = url.dropFirst("http://".count)
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        let authority = rest[..<slash].split(separator: ":")
        guard url.hasPrefix("http://"), authority.count == 2, let port = Int(authority[1]) else {
            throw StoreError(
                .invalidArgument, "metrics are at http://HOST:PORT/, not at '\(url)'")
        }
        let host = String(authority[0])
        let path = slash == rest.endIndex ? "/" : String(rest[slash...])
        let answer = try exchange(
            host: host, port: port,
            request: "GET \(path) HTTP/1.1\r\nHost: \(host)\r\nConnection: close\r\n\r\n")
        guard let end = answer.firstRange(of: "\r\n\r\n") else {
            throw StoreError(.connection, "\(url) did not answer in HTTP")
        }
        let line = answer.prefix { $0 != "\r\n" }
        guard line.split(separator: " ").dropFirst().first == "200" else {
            throw StoreError(.unavailable, "\(url) answered '\(line)'")
        }
        return String(answer[end.upperBound...])
    }

    /// Sends `request` and returns everything until the other end closes, or fails when it is
    /// silent for `seconds`. Blocks its thread.
    static func exchange(
        host: String, port: Int, request: String, patience seconds: Int = Limits.seconds
    ) throws(StoreError) -> String {
        let descriptor = try connected(host: host, port: port, patience: seconds)
        defer { close(descriptor) }
        func failed(_ what: String) -> StoreError {
            StoreError(
                .connection, "\(what) \(host):\(port): \(String(cString: strerror(errno)))")
        }
        var bytes = Array(request.utf8)
        while !bytes.isEmpty {
            let sent = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
            guard sent > 0 else { throw failed("sending to") }
            bytes.removeFirst(sent)
        }
        var answer: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 64 << 10)
        while answer.count < Limits.bytes {
            let count = recv(descriptor, &piece, piece.count, 0)
            guard count >= 0 else { throw failed("receiving from") }
            if count == 0 { break }
            answer += piece[..<count]
        }
        return String(decoding: answer, as: UTF8.self)
    }

    private static func connected(
        host: String, port: Int, patience seconds: Int
    ) throws(StoreError) -> Int32 {
        var hints = addrinfo()
        hints.ai_family = AF_INET
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, String(port), &hints, &found) == 0, let found else {
            throw StoreError(.connection, "there is no host \(host)")
        }
        defer { freeaddrinfo(found) }
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw StoreError(.io, "no socket can be made") }
        var time = timeval(tv_sec: seconds, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, size)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, size)
        guard connect(descriptor, found.pointee.ai_addr, found.pointee.ai_addrlen) == 0 else {
            let reason = String(cString: strerror(errno))
            close(descriptor)
            throw StoreError(.connection, "\(host):\(port): \(reason)")
        }
        return descriptor
    }
}
