import Bytes
import CLinux
import Model
import Reactor
import Wire

// Between processes of one machine a connection is a Unix-domain socket, and the client passes
// its arena with the first bytes. Frames then say where in it a payload lies, or where the answer's
// payload is to be put; the bytes themselves are moved by nobody but the disk.
//
// Who may touch what, and when: from a request on until its answer the server may read the payload
// and write to the landing area. The client keeps both in place until the answer has come or the
// server has ended the connection, even if nobody waits any more (`RPCConnection`); the server
// ends it only when no handler runs any more (`ServerConnection`). If a server process dies the
// kernel waits for its I/O before it closes its sockets.

/// The first bytes of a local connection: magic and version, as in a frame's header.
enum SharedMemoryGreeting {
    static let bytes: [UInt8] = Array("APUSMEM".utf8) + [1]

    /// The client's side.
    static func send(over socket: Socket) async throws(IOError) {
        try await socket.send(bytes, passing: socket.reactor.pool.arenaDescriptor)
    }

    /// The server's side: the client's memory, mapped.
    static func receive(over socket: Socket) async throws(StoreError) -> SharedMap {
        guard socket.isOfSameUser else {
            throw StoreError(.connection, "a process of another user may not share memory")
        }
        let received: (bytes: [UInt8], passed: Int32)
        do throws(IOError) {
            received = try await socket.receive(count: bytes.count)
        } catch {
            throw StoreError(.connection, error.description)
        }
        defer { if received.passed >= 0 { apus_close(received.passed) } }
        guard received.bytes == bytes, received.passed >= 0 else {
            throw StoreError(
                .versionMismatch, "a local connection begins with \(bytes) and shared memory")
        }
        do throws(SharedMap.Failure) {
            return try SharedMap(
                descriptor: received.passed, limit: TransportLimits.sharedBytes)
        } catch {
            throw StoreError(.connection, "the client's memory cannot be shared: \(error)")
        }
    }
}

extension FrameHeader {
    /// The part of `map` that a request's header names, nil for an inline payload.
    func sharedRange(of map: SharedMap?) throws(FrameError) -> Range<Int>? {
        guard payloadPlace != .inline else { return nil }
        guard let map else { throw .shared("it has none") }
        guard payloadBytes > 0, sharedOffset % AlignedBuffer.alignment == 0,
            sharedOffset <= map.count - payloadBytes
        else {
            throw .shared("\(payloadBytes) bytes at \(sharedOffset) of \(map.count)")
        }
        return sharedOffset..<sharedOffset + payloadBytes
    }
}
