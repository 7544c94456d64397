import Bytes
import CLiburing
import CLinux
import Glibc
import Synchronization

/// A connected stream socket of one reactor. One task receives, one sends; both may run at once.
public final class Socket: Sendable {
    public let reactor: Reactor
    /// `host:port` of the other end, for messages.
    public let peer: String
    /// Between processes of one machine.
    let isLocal: Bool
    let handle: IOHandle
    private let isClosed = Atomic<Bool>(false)

    /// A connection that says nothing is asked after so many seconds whether it is still there, then
    /// in such steps, and is lost after so many in vain: two minutes after the other machine went.
    private enum KeepAlive {
        static let idle: Int32 = 60
        static let interval: Int32 = 10
        static let count: Int32 = 6
    }

    init(reactor: Reactor, peer: String, isLocal: Bool, handle: IOHandle) {
        self.reactor = reactor
        self.peer = peer
        self.isLocal = isLocal
        self.handle = handle
    }

    deinit {
        guard !isClosed.load(ordering: .relaxed) else { return }
        let handle = handle
        reactor.post { inbox in Self.appendClose(handle, &inbox.requests) }
    }

    static func adopt(
        _ descriptor: Int32, peer: String, isLocal: Bool, on reactor: Reactor
    ) async -> Socket {
        if !isLocal {
            var one: Int32 = 1
            _ = setsockopt(
                descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one,
                socklen_t(MemoryLayout<Int32>.size))
            apus_keep_alive(descriptor, KeepAlive.idle, KeepAlive.interval, KeepAlive.count)
        }
        let slot = await reactor.perform(IORequest(.register(descriptor: descriptor)))
        return Socket(
            reactor: reactor, peer: peer, isLocal: isLocal,
            handle: IOHandle(descriptor: descriptor, slot: max(slot, -1)))
    }

    /// Connects to `host` (name or address) and `port`.
    /// - Parameter timeout: how long a host that does not answer is tried, in whole milliseconds;
    ///   then `ETIMEDOUT`. nil: as long as the kernel does, some two minutes.
    public static func connect(
        host: String, port: Int, timeout: Duration? = nil, on reactor: Reactor
    ) async throws(IOError) -> Socket {
        let address = try await reactor.lookUp(host: host, port: port)
        return try await connect(
            address, name: "\(host):\(port)", timeout: timeout, on: reactor)
    }

    static func connect(
        _ address: SocketAddress, name: String, timeout: Duration? = nil, on reactor: Reactor
    ) async throws(IOError) -> Socket {
        let descriptor = socket(
            Int32(address.family), Int32(APUS_SOCK_STREAM), 0)
        guard descriptor >= 0 else { throw IOError(code: errno, operation: "socket", path: name) }
        if let timeout { setUserTimeout(descriptor, timeout) }
        let copy = UnsafeMutablePointer<SocketAddress>.allocate(capacity: 1)
        copy.initialize(to: address)
        defer { copy.deallocate() }
        let result = await reactor.perform(
            IORequest(
                .connect(
                    IOHandle(descriptor: descriptor),
                    address: UnsafeRawPointer(copy).assumingMemoryBound(to: sockaddr.self),
                    length: address.length)))
        guard result >= 0 else {
            Glibc.close(descriptor)
            throw IOError(code: -result, operation: "connect", path: name)
        }
        // A peer that takes nothing for long is slow, not gone.
        if timeout != nil { setUserTimeout(descriptor, .zero) }
        return await adopt(descriptor, peer: name, isLocal: address.isLocal, on: reactor)
    }

    /// How long the kernel tries to get something to the other end; zero: as it sees fit.
    private static func setUserTimeout(_ descriptor: Int32, _ timeout: Duration) {
        let (seconds, attoseconds) = timeout.components
        var milliseconds = UInt32(clamping: seconds * 1000 + attoseconds / 1_000_000_000_000_000)
        _ = setsockopt(
            descriptor, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, &milliseconds,
            socklen_t(MemoryLayout<UInt32>.size))
    }

    /// Receives into `range` of `buffer`: some bytes, or with `all` the whole range. Fewer with
    /// `all`, or 0 without, mean that the other end has closed.
    public func receive(
        into buffer: AlignedBuffer, _ range: Range<Int>, all: Bool
    ) async throws(IOError) -> Int {
        let target = buffer.bytes(in: range)
        var done = 0
        while done < range.count {
            let result = await reactor.perform(
                IORequest(
                    .receive(
                        handle, into: target.baseAddress! + done, length: range.count - done,
                        all: all)))
            if result == -EINTR || result == -EAGAIN { continue }
            guard result >= 0 else {
                throw IOError(code: -result, operation: "receive", path: peer)
            }
            done += Int(result)
            if result == 0 || !all { break }
        }
        withExtendedLifetime(buffer) {}
        return done
    }

    /// Sends everything in `vector`.
    public func send(_ vector: SendVector) async throws(IOError) {
        var left = vector.prepare()
        while left > 0 {
            let result = await reactor.perform(IORequest(.send(handle, vector.header)))
            if result == -EINTR || result == -EAGAIN { continue }
            guard result > 0 else {
                throw IOError(
                    code: result == 0 ? EPIPE : -result, operation: "send", path: peer)
            }
            left -= Int(result)
            if left > 0, vector.header.pointee.msg_iovlen > 0 { vector.consume(Int(result)) }
        }
    }

    /// Ends both directions: pending and later operations fail or report the end.
    public func shutdown() {
        guard !isClosed.load(ordering: .relaxed) else { return }
        _ = Glibc.shutdown(handle.descriptor, Int32(SHUT_RDWR))
    }

    /// Ends the sending direction: the other end sees the end of the stream and may still answer.
    public func shutdownSending() {
        guard !isClosed.load(ordering: .relaxed) else { return }
        _ = Glibc.shutdown(handle.descriptor, Int32(SHUT_WR))
    }

    /// Closes the socket. Call when nothing is in flight any more (after `shutdown`).
    public func close() {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        let handle = handle
        reactor.post { inbox in Self.appendClose(handle, &inbox.requests) }
    }

    private static func appendClose(_ handle: IOHandle, _ requests: inout [IORequest]) {
        if handle.slot >= 0 { requests.append(.unheard(.unregister(slot: handle.slot))) }
        requests.append(.unheard(.closeSocket(descriptor: handle.descriptor)))
    }
}

/// What one `send` sends: up to `capacity` pieces of memory, gathered by the kernel.
///
/// Belongs to one sender at a time. The memory behind the pieces must stay in place until the
/// send has returned.
public final class SendVector: @unchecked Sendable {
    // Used by one task at a time (the connection's sender), as the type's contract says.
    public let capacity: Int
    public private(set) var count = 0
    /// Bytes in all pieces.
    public private(set) var byteCount = 0
    private let vectors: UnsafeMutablePointer<iovec>
    let header: UnsafeMutablePointer<msghdr>

    public init(capacity: Int = 128) {
        precondition(capacity > 0 && capacity <= 1024, "the kernel takes 1 to 1024 pieces")
        self.capacity = capacity
        vectors = .allocate(capacity: capacity)
        header = .allocate(capacity: 1)
        header.initialize(to: msghdr())
    }

    deinit {
        vectors.deallocate()
        header.deallocate()
    }

    /// Adds a piece. Precondition: there is room.
    public func append(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0 else { return }
        precondition(count < capacity, "send vector is full")
        (vectors + count).initialize(
            to: iovec(
                iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress),
                iov_len: bytes.count))
        count += 1
        byteCount += bytes.count
    }

    public func removeAll() {
        count = 0
        byteCount = 0
    }

    fileprivate func prepare() -> Int {
        header.pointee = msghdr()
        header.pointee.msg_iov = vectors
        header.pointee.msg_iovlen = count
        return byteCount
    }

    fileprivate func consume(_ bytes: Int) {
        // The poll backend moves the vector on itself; here only the ring's short sends arrive.
        var left = bytes
        while left > 0, header.pointee.msg_iovlen > 0 {
            let first = header.pointee.msg_iov!
            let taken = min(left, first.pointee.iov_len)
            first.pointee.iov_base! += taken
            first.pointee.iov_len -= taken
            left -= taken
            if first.pointee.iov_len == 0 {
                header.pointee.msg_iov = first + 1
                header.pointee.msg_iovlen -= 1
            }
        }
    }
}

/// A listening socket of one reactor.
public final class Listener: Sendable {
    public let reactor: Reactor
    /// The port it listens on: the one asked for, or the one the system chose for 0.
    public let port: Int
    private let isLocal: Bool
    private let descriptor: Int32
    private let isClosed = Atomic<Bool>(false)

    /// Binds and listens at once.
    public init(
        host: String, port: Int, on reactor: Reactor, backlog: Int = 1024
    ) throws(IOError) {
        let address = try SocketAddress(lookingUp: host, port: port, isPassive: true)
        descriptor = try Self.listen(at: address, name: "\(host):\(port)", backlog: backlog)
        isLocal = address.isLocal
        self.reactor = reactor
        self.port = port != 0 ? port : SocketAddress.localPort(of: descriptor)
    }

    init(
        at address: SocketAddress, name: String, on reactor: Reactor, backlog: Int
    ) throws(IOError) {
        descriptor = try Self.listen(at: address, name: name, backlog: backlog)
        isLocal = address.isLocal
        self.reactor = reactor
        port = 0
    }

    private static func listen(
        at address: SocketAddress, name: String, backlog: Int
    ) throws(IOError) -> Int32 {
        var address = address
        let descriptor = socket(Int32(address.family), Int32(APUS_SOCK_STREAM), 0)
        guard descriptor >= 0 else { throw IOError(code: errno, operation: "socket", path: name) }
        var one: Int32 = 1
        let size = socklen_t(MemoryLayout<Int32>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, size)
        let length = address.length
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length)
            }
        }
        guard bound == 0, Glibc.listen(descriptor, Int32(backlog)) == 0 else {
            let code = errno
            Glibc.close(descriptor)
            throw IOError(code: code, operation: "listen", path: name)
        }
        return descriptor
    }

    deinit {
        if !isClosed.load(ordering: .relaxed) { Glibc.close(descriptor) }
    }

    /// The next connection. It belongs to `target`, or to the listener's reactor.
    public func accept(for target: Reactor? = nil) async throws(IOError) -> Socket {
        while true {
            let result = await reactor.perform(
                IORequest(.accept(IOHandle(descriptor: descriptor))))
            if result >= 0 {
                return await Socket.adopt(
                    result, peer: isLocal ? "this machine" : SocketAddress.peerName(of: result),
                    isLocal: isLocal, on: target ?? reactor)
            }
            if result == -EINTR || result == -EAGAIN || result == -ECONNABORTED { continue }
            throw IOError(code: -result, operation: "accept", path: "port \(port)")
        }
    }

    /// Stops listening: a pending `accept` fails.
    public func close() {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        _ = Glibc.shutdown(descriptor, Int32(SHUT_RDWR))
        let descriptor = descriptor
        reactor.post {
            $0.requests.append(.unheard(.closeSocket(descriptor: descriptor)))
        }
    }
}

/// A socket address of any family, with its length.
struct SocketAddress {
    // First, so that a pointer to this value is a pointer to the address.
    var storage = sockaddr_storage()
    var length: socklen_t = 0

    var family: UInt16 { storage.ss_family }
    /// Of the Unix domain.
    var isLocal: Bool { family == UInt16(APUS_AF_UNIX) }

    static func localPort(of descriptor: Int32) -> Int {
        var address = SocketAddress()
        address.length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        _ = withUnsafeMutablePointer(to: &address.storage) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                getsockname(descriptor, $0, &address.length)
            }
        }
        return address.port
    }

    static func peerName(of descriptor: Int32) -> String {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        var host = [CChar](repeating: 0, count: 256)
        var service = [CChar](repeating: 0, count: 32)
        let result = withUnsafeMutablePointer(to: &storage) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                guard getpeername(descriptor, address, &length) == 0 else { return Int32(-1) }
                return getnameinfo(
                    address, length, &host, 256, &service, 32, NI_NUMERICHOST | NI_NUMERICSERV)
            }
        }
        guard result == 0 else { return "?" }
        return "\(text(host)):\(text(service))"
    }

    private static func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    var port: Int {
        withUnsafeBytes(of: storage) { bytes in
            // The port lies at byte 2 of both families' addresses, in network order.
            Int(bytes[2]) << 8 | Int(bytes[3])
        }
    }
}
