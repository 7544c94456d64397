import Bytes
import Checksum
import Reactor
import Wire

/// Receives frames from a socket: heads and messages through a small staging buffer, payloads
/// straight into an aligned buffer of their own. One task at a time, on the socket's reactor.
struct FrameReceiver: ~Copyable {
    private let socket: Socket
    private let pool: BufferPool
    private let staging: AlignedBuffer
    /// Received and not taken yet.
    private var range = 0..<0

    init(_ socket: Socket) {
        self.socket = socket
        pool = socket.reactor.pool
        staging = pool.allocate(TransportLimits.stagingBytes)
    }

    /// The next frame. Throws `closedByPeer` at an end between frames and within one alike.
    mutating func next() async throws(StreamError) -> Frame {
        var frame = try await nextWithoutPayload()
        let count = frame.header.inlinePayloadBytes
        if count > 0 { frame.payload = try await receivePayload(count) }
        return frame
    }

    /// The next frame but for an inline payload, which is to be received or discarded before the
    /// next: whoever decides what becomes of it need not have it for that.
    /// - Parameter limit: of token and message; beyond it the frame is refused by its header.
    mutating func nextWithoutPayload(
        limit: Int = FrameHeader.Limits.tokenBytes + FrameHeader.Limits.messageBytes
    ) async throws(StreamError) -> Frame {
        try await fill(FrameHeader.size)
        let header: FrameHeader
        do throws(FrameError) {
            header = try FrameHeader(
                parsing: UnsafeRawBufferPointer(staging.bytes(in: range)))
        } catch {
            throw .frame(error)
        }
        take(FrameHeader.size)
        guard header.bodyBytes <= limit else {
            throw .frame(.length("\(header.kind)", header.bodyBytes, limit: limit))
        }
        let body = try await receiveBody(header.bodyBytes)
        guard CRC32C.of(body) == header.bodyChecksum else { throw .frame(.bodyChecksum) }
        return Frame(header: header, body: body)
    }

    /// Receives the inline payload of the frame that was received last, `count` bytes.
    mutating func receivePayload(_ count: Int) async throws(StreamError) -> Payload {
        Payload(try await receiveLarge(count), 0..<count)
    }

    /// Takes the inline payload of the frame that was received last, `count` bytes, off the stream.
    mutating func discardPayload(_ count: Int) async throws(StreamError) {
        var left = count
        while left > 0 {
            try await fill(1)
            let staged = min(left, range.count)
            take(staged)
            left -= staged
        }
    }

    private mutating func take(_ count: Int) {
        range = range.lowerBound + count..<range.upperBound
    }

    /// Receives until at least `count` bytes are staged.
    private mutating func fill(_ count: Int) async throws(StreamError) {
        guard range.count < count else { return }
        if range.lowerBound + count > staging.capacity {
            staging.base.copyMemory(from: staging.base + range.lowerBound, byteCount: range.count)
            range = 0..<range.count
        }
        if range.isEmpty { range = 0..<0 }
        while range.count < count {
            let received = try await receive(into: staging, range.upperBound..<staging.capacity)
            range = range.lowerBound..<range.upperBound + received
        }
    }

    private func receive(
        into buffer: AlignedBuffer, _ target: Range<Int>, all: Bool = false
    ) async throws(StreamError) -> Int {
        do throws(IOError) {
            let count = try await socket.receive(into: buffer, target, all: all)
            if count > 0, !all || count == target.count { return count }
        } catch {
            throw .io(error)
        }
        throw .closedByPeer
    }

    private mutating func receiveBody(_ count: Int) async throws(StreamError) -> [UInt8] {
        guard count > 0 else { return [] }
        if count <= TransportLimits.stagingBytes {
            try await fill(count)
            let start = range.lowerBound
            defer { take(count) }
            return Array(staging.bytes(in: start..<start + count))
        }
        let buffer = try await receiveLarge(count)
        return Array(buffer.bytes(in: 0..<count))
    }

    private mutating func receiveLarge(_ count: Int) async throws(StreamError) -> AlignedBuffer {
        let buffer = pool.allocate(count)
        let staged = min(count, range.count)
        buffer.base.copyMemory(from: staging.base + range.lowerBound, byteCount: staged)
        take(staged)
        if staged < count { _ = try await receive(into: buffer, staged..<count, all: true) }
        return buffer
    }
}
