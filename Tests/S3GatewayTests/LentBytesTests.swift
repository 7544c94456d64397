import Bytes
import NIOCore
import Testing

@testable import S3Gateway

@Suite("Lent bytes")
struct LentBytesTests {
    /// A piece of `count` bytes of `value`, the only owner of its memory.
    private func piece(_ value: UInt8, _ count: Int) -> Payload {
        let buffer = BufferPool.process.allocate(count)
        buffer.bytes(in: 0..<count).initializeMemory(as: UInt8.self, repeating: value)
        return Payload(buffer, 0..<count)
    }

    /// Takes and fills memory as others would, if it had been given back too early.
    private func reuse(_ count: Int) -> [Payload] { (0..<64).map { _ in piece(0xEE, count) } }

    @Test("memory that is lent several times stays until all have given it back", arguments: 1...4)
    func several(times: Int) {
        let count = 64 << 10
        var lent: [ByteBuffer] = []
        do {
            let piece = piece(7, count)
            for _ in 0..<times { lent.append(LentBytes.lend(piece)) }
        }
        while let last = lent.last {
            _ = reuse(count)
            #expect(last.readableBytesView.allSatisfy { $0 == 7 })
            lent.removeLast()
        }
    }

    @Test("parts of one piece are lent apart from each other")
    func parts() {
        let count = 64 << 10
        let whole = piece(9, count)
        let first = LentBytes.lend(whole.slice(0..<4096))
        var second: ByteBuffer? = LentBytes.lend(whole.slice(4096..<count))
        #expect(second?.readableBytes == count - 4096)
        second = nil
        _ = reuse(count)
        #expect(first.readableBytesView.elementsEqual(repeatElement(9, count: 4096)))
    }

    @Test("NIO's own buffers grow with what is in them")
    func growth() {
        var buffer = LentBytes.allocator.buffer(capacity: 64 << 10)
        for round in 0..<40 { buffer.writeRepeatingByte(UInt8(round), count: 8000) }
        #expect(buffer.readableBytes == 320_000)
        #expect((0..<40).allSatisfy { buffer.getInteger(at: $0 * 8000 + 7999) == UInt8($0) })
    }
}
