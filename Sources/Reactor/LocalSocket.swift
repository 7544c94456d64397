import Bytes
import CLiburing
import CLinux
import Glibc

// Sockets between processes of one machine: abstract Unix-domain names, which live and die with
// their listener and belong to a network namespace, as ports do. Only processes of the same user
// talk to each other: anyone may take such a name.

extension Socket {
    /// The name under which whoever listens on `host:port` is reached without the network, or nil
    /// if that address is not one of this machine, or does not resolve. Waits for the resolver if
    /// `host` is a name: for those who begin to listen, not for a reactor's thread.
    public static func localName(host: String, port: Int) -> String? {
        do throws(IOError) {
            return localName(
                of: try SocketAddress(lookingUp: host, port: port, isPassive: false), port)
        } catch { return nil }
    }

    /// The same on a reactor, which does not wait.
    public static func localName(host: String, port: Int, on reactor: Reactor) async -> String? {
        do throws(IOError) {
            return localName(of: try await reactor.lookUp(host: host, port: port), port)
        } catch { return nil }
    }

    private static func localName(of resolved: SocketAddress, _ port: Int) -> String? {
        guard let address = resolved.numericHost, resolved.isOfThisMachine else { return nil }
        return "apus/\(address)/\(port)"
    }

    /// Connects to `name` as `localName` makes it. Refused if another user listens there.
    public static func connect(
        localName name: String, on reactor: Reactor
    ) async throws(IOError) -> Socket {
        let socket = try await connect(try SocketAddress(local: name), name: name, on: reactor)
        guard socket.isOfSameUser else {
            socket.close()
            throw IOError(code: EPERM, operation: "connect to another user's", path: name)
        }
        return socket
    }

    /// Whether the process at the other end of a local socket runs as the same user.
    public var isOfSameUser: Bool { apus_peer_user(handle.descriptor) == apus_user() }

    /// The process at the other end of a local socket and its user, as the kernel noted them when it
    /// connected; nil for a socket of the network.
    public var peerProcess: (number: Int32, user: UInt32)? {
        guard isLocal else { return nil }
        var number: Int32 = 0
        var user: UInt32 = 0
        guard apus_peer_process(handle.descriptor, &number, &user) == 0 else { return nil }
        return (number, user)
    }

    /// Sends `bytes`, and with them a descriptor of which the other end gets a copy of its own.
    public func send(_ bytes: [UInt8], passing passed: Int32) async throws(IOError) {
        let message = LocalMessage(count: bytes.count, pool: reactor.pool)
        message.bytes.copyBytes(from: bytes)
        message.header.pointee.msg_controllen = apus_put_descriptor(message.control, passed)
        let result = await reactor.perform(IORequest(.send(handle, message.header)))
        withExtendedLifetime(message) {}
        guard Int(result) == bytes.count else {
            throw IOError(code: result < 0 ? -result : EPIPE, operation: "send", path: peer)
        }
    }

    /// Receives exactly `count` bytes, and the descriptor that came with them, -1 if none did. It
    /// is the caller's to close.
    public func receive(count: Int) async throws(IOError) -> (bytes: [UInt8], passed: Int32) {
        let message = LocalMessage(count: count, pool: reactor.pool)
        message.header.pointee.msg_controllen = Int(APUS_CONTROL_BYTES)
        let result = await reactor.perform(
            IORequest(.receiveMessage(handle, message.header)))
        let passed =
            result < 0
            ? -1 : apus_take_descriptor(message.control, message.header.pointee.msg_controllen)
        guard Int(result) == count else {
            if passed >= 0 { Glibc.close(passed) }
            throw IOError(code: result < 0 ? -result : EPIPE, operation: "receive", path: peer)
        }
        return (Array(message.bytes), passed)
    }
}

extension Listener {
    /// Listens on `name` as `Socket.localName` makes it.
    public convenience init(
        localName name: String, on reactor: Reactor, backlog: Int = 1024
    ) throws(IOError) {
        try self.init(
            at: try SocketAddress(local: name), name: name, on: reactor, backlog: backlog)
    }
}

/// A message of one piece with room for control data, in memory that stays in place.
private final class LocalMessage {
    private let buffer: AlignedBuffer
    let header: UnsafeMutablePointer<msghdr>
    private let vector: UnsafeMutablePointer<iovec>
    let control: UnsafeMutableRawPointer
    let bytes: UnsafeMutableRawBufferPointer

    init(count: Int, pool: BufferPool) {
        buffer = pool.allocate(count)
        bytes = buffer.bytes(in: 0..<count)
        header = .allocate(capacity: 1)
        vector = .allocate(capacity: 1)
        control = .allocate(byteCount: Int(APUS_CONTROL_BYTES), alignment: 16)
        vector.initialize(to: iovec(iov_base: bytes.baseAddress, iov_len: count))
        header.initialize(to: msghdr())
        header.pointee.msg_iov = vector
        header.pointee.msg_iovlen = 1
        header.pointee.msg_control = control
    }

    deinit {
        header.deallocate()
        vector.deallocate()
        control.deallocate()
    }
}

extension SocketAddress {
    /// An abstract Unix-domain name.
    init(local name: String) throws(IOError) {
        self.init()
        length = withUnsafeMutablePointer(to: &storage) { apus_local_address($0, name) }
        guard length > 0 else {
            throw IOError(code: ENAMETOOLONG, operation: "name a local socket", path: name)
        }
    }

    /// The address without its port, in figures.
    var numericHost: String? {
        var copy = storage
        let size = length
        var host = [CChar](repeating: 0, count: 256)
        let result = withUnsafeMutablePointer(to: &copy) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                getnameinfo($0, size, &host, 256, nil, 0, NI_NUMERICHOST)
            }
        }
        guard result == 0 else { return nil }
        return String(
            decoding: host.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Whether one of this machine's interfaces has the address: only then can a socket be bound
    /// to it.
    var isOfThisMachine: Bool {
        var copy = self
        copy.clearPort()
        let descriptor = socket(Int32(family), Int32(APUS_SOCK_STREAM), 0)
        guard descriptor >= 0 else { return false }
        defer { Glibc.close(descriptor) }
        // Only the address is asked about: no port is taken up, which may be another's.
        var one: Int32 = 1
        setsockopt(
            descriptor, Int32(IPPROTO_IP), IP_BIND_ADDRESS_NO_PORT, &one,
            socklen_t(MemoryLayout<Int32>.size))
        let size = length
        return withUnsafeMutablePointer(to: &copy.storage) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, size) == 0
            }
        }
    }

    private mutating func clearPort() {
        // Bytes 2 and 3 of both families' addresses; 0 asks for any free port.
        withUnsafeMutableBytes(of: &storage) { bytes in
            bytes[2] = 0
            bytes[3] = 0
        }
    }
}
