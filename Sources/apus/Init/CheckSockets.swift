import Foundation
import Model

/// Sockets as `apus init check` needs them, and who looks for a port: few, blocking, each step with
/// an end in time.
enum CheckSockets {
    /// What an address is, and what came of it.
    struct Failure: Error {
        var code: Int32
        var text: String { String(cString: strerror(code)) }
    }

    /// Listens at `place`. Throws with `EADDRINUSE` if somebody else does, `EADDRNOTAVAIL` if it is
    /// no address of this machine.
    static func listen(at place: HostPort) throws(Failure) -> Int32 {
        try withAddress(place) { (address, length, family) throws(Failure) in
            let descriptor = socket(family, Int32(SOCK_STREAM.rawValue) | closeOnExec, 0)
            guard descriptor >= 0 else { throw Failure(code: errno) }
            var one: Int32 = 1
            setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, 4)
            guard bind(descriptor, address, length) == 0, Foundation.listen(descriptor, 64) == 0
            else {
                let failure = Failure(code: errno)
                close(descriptor)
                throw failure
            }
            return descriptor
        }
    }

    /// The port that a listener has; nil if it is no socket of the Internet.
    static func port(of listener: Int32) -> Int? {
        var address = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutablePointer(to: &address) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                guard getsockname(listener, generic, &length) == 0 else { return nil }
                // The port is at the same place in those of IPv4 and IPv6.
                let family = Int32(generic.pointee.sa_family)
                guard family == AF_INET || family == AF_INET6 else { return nil }
                return generic.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                    Int(in_port_t(bigEndian: $0.pointee.sin_port))
                }
            }
        }
    }

    /// Connects within `milliseconds`.
    static func connect(to place: HostPort, milliseconds: Int32) throws(Failure) -> Int32 {
        try withAddress(place) { (address, length, family) throws(Failure) in
            let flags = Int32(SOCK_STREAM.rawValue) | closeOnExec | Int32(SOCK_NONBLOCK.rawValue)
            let descriptor = socket(family, flags, 0)
            guard descriptor >= 0 else { throw Failure(code: errno) }
            do throws(Failure) {
                if Foundation.connect(descriptor, address, length) != 0 {
                    guard errno == EINPROGRESS else { throw Failure(code: errno) }
                    try wait(descriptor, for: POLLOUT, milliseconds)
                    var code: Int32 = 0
                    var size = socklen_t(4)
                    getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &size)
                    guard code == 0 else { throw Failure(code: code) }
                }
            } catch {
                close(descriptor)
                throw error
            }
            return descriptor
        }
    }

    /// The next connection, within `milliseconds`; nil if there was none.
    static func accept(_ listener: Int32, milliseconds: Int32) -> Int32? {
        guard (try? wait(listener, for: POLLIN, milliseconds)) != nil else { return nil }
        let descriptor = Foundation.accept(listener, nil, nil)
        return descriptor >= 0 ? descriptor : nil
    }

    /// Sends a line.
    static func send(_ text: String, to descriptor: Int32) throws(Failure) {
        var bytes = Array((text + "\n").utf8)[...]
        while !bytes.isEmpty {
            try wait(descriptor, for: POLLOUT, Limits.milliseconds)
            let count = bytes.withUnsafeBytes {
                Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw Failure(code: errno) }
            bytes = bytes.dropFirst(count)
        }
    }

    /// Receives a line of at most `Limits.bytes`.
    static func receiveLine(from descriptor: Int32) throws(Failure) -> String {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while line.count < Limits.bytes {
            try wait(descriptor, for: POLLIN, Limits.milliseconds)
            let count = recv(descriptor, &byte, 1, 0)
            guard count == 1 else { throw Failure(code: count == 0 ? ECONNRESET : errno) }
            if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
            line.append(byte)
        }
        throw Failure(code: EMSGSIZE)
    }

    /// The numeric addresses of a host, as this machine resolves it.
    static func addresses(of host: String) -> [String] {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, nil, &hints, &found) == 0, let first = found else { return [] }
        defer { freeaddrinfo(first) }
        var texts: [String] = []
        var next: UnsafeMutablePointer<addrinfo>? = first
        while let entry = next {
            var name = [CChar](repeating: 0, count: 256)
            if getnameinfo(
                entry.pointee.ai_addr, entry.pointee.ai_addrlen, &name, 256, nil, 0,
                NI_NUMERICHOST) == 0
            {
                texts.append(
                    String(
                        decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) },
                        as: UTF8.self))
            }
            next = entry.pointee.ai_next
        }
        return texts
    }

    enum Limits {
        /// For each step of an exchange.
        static let milliseconds: Int32 = 2000
        static let bytes = 1 << 20
    }

    private static let closeOnExec = Int32(SOCK_CLOEXEC.rawValue)

    private static func wait(
        _ descriptor: Int32, for events: Int32, _ milliseconds: Int32
    ) throws(Failure) {
        var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        let count = poll(&entry, 1, milliseconds)
        guard count != 0 else { throw Failure(code: ETIMEDOUT) }
        guard count > 0 else { throw Failure(code: errno) }
    }

    private static func withAddress(
        _ place: HostPort,
        _ body: (UnsafePointer<sockaddr>, socklen_t, Int32) throws(Failure) -> Int32
    ) throws(Failure) -> Int32 {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICSERV
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(place.host, String(place.port), &hints, &found) == 0, let found else {
            throw Failure(code: EHOSTUNREACH)
        }
        defer { freeaddrinfo(found) }
        return try body(
            found.pointee.ai_addr, found.pointee.ai_addrlen, found.pointee.ai_family)
    }
}
