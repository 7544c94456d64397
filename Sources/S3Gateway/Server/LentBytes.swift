import Bytes
@_spi(CustomByteBufferAllocator) import NIOCore
import Synchronization

/// Pieces that were read from the store, lent to NIO without a copy until it has sent them.
///
/// NIO gives memory back by its address alone, so the pieces on their way are kept by address. One
/// lock, held for a few instructions, twice for each piece of up to a cell.
enum LentBytes {
    private static let lent = Mutex<[UInt: [Payload]]>([:])

    /// NIO's way to give the memory back. It allocates nothing with this: a buffer that NIO
    /// wants to write to gets memory of the system, as any other.
    private static let allocator = ByteBufferAllocator(
        allocate: { UnsafeMutableRawPointer.allocate(byteCount: $0, alignment: 16) },
        reallocate: { _, _, _ in
            preconditionFailure("lent bytes are sent as they are, never grown")
        },
        deallocate: { LentBytes.giveBack($0) },
        copy: { $0.copyMemory(from: $1, byteCount: $2) })

    /// The bytes of `piece` as a buffer that keeps it. Precondition: the piece is not empty.
    static func lend(_ piece: Payload) -> ByteBuffer {
        let bytes = piece.buffer.bytes(in: piece.offset..<piece.offset + piece.count)
        guard let base = bytes.baseAddress, piece.count > 0 else {
            preconditionFailure("a piece of the store has bytes")
        }
        lent.withLock { $0[UInt(bitPattern: base), default: []].append(piece) }
        return ByteBuffer(takingOwnershipOf: bytes, allocator: allocator)
    }

    private static func giveBack(_ base: UnsafeMutableRawPointer) {
        let piece = lent.withLock { lent in
            let address = UInt(bitPattern: base)
            let piece = lent[address]?.popLast()
            if lent[address]?.isEmpty == true { lent[address] = nil }
            return piece
        }
        guard piece == nil else { return }
        // Memory that `allocate` above handed out.
        base.deallocate()
    }
}
