import Bytes
@_spi(CustomByteBufferAllocator) import NIOCore
import Synchronization

/// Memory of the process's buffer pool in NIO's hands.
///
/// Pieces that were read from the store are lent to NIO without a copy until it has sent them;
/// and what NIO receives in bulk lies in buffers of the pool, whose pages exist already, instead
/// of fresh ones of the system for each read.
///
/// NIO gives memory back by its address alone, so what is on its way is kept by address. One lock,
/// held for a few instructions, twice for each piece.
enum LentBytes {
    enum Limits {
        /// From this size on NIO's buffers come from the pool.
        static let pooled = 32 << 10
    }

    /// What keeps the memory at one address: nearly always one buffer.
    private struct Loans {
        var last: AlignedBuffer
        var others: [AlignedBuffer] = []
    }

    private static let lent = Mutex<[UInt: Loans]>([:])

    /// NIO's way to get memory and to give it back.
    static let allocator = ByteBufferAllocator(
        allocate: { LentBytes.allocate($0) },
        reallocate: { LentBytes.reallocate($0, from: $1, to: $2) },
        deallocate: { LentBytes.giveBack($0) },
        copy: { $0.copyMemory(from: $1, byteCount: $2) })

    /// The bytes of `piece` as a buffer that keeps it. Precondition: the piece is not empty.
    static func lend(_ piece: Payload) -> ByteBuffer {
        let bytes = piece.buffer.bytes(in: piece.offset..<piece.offset + piece.count)
        guard let base = bytes.baseAddress, piece.count > 0 else {
            preconditionFailure("a piece of the store has bytes")
        }
        keep(piece.buffer, at: base)
        return ByteBuffer(takingOwnershipOf: bytes, allocator: allocator)
    }

    private static func keep(_ buffer: AlignedBuffer, at base: UnsafeMutableRawPointer) {
        lent.withLock { lent in
            let address = UInt(bitPattern: base)
            guard let before = lent.updateValue(Loans(last: buffer), forKey: address) else {
                return
            }
            lent[address] = Loans(last: buffer, others: before.others + [before.last])
        }
    }

    private static func allocate(_ count: Int) -> UnsafeMutableRawPointer {
        guard count >= Limits.pooled, count <= BufferPool.Limits.largestBuffer else {
            return UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 16)
        }
        let buffer = BufferPool.process.allocate(count)
        keep(buffer, at: buffer.base)
        return buffer.base
    }

    private static func reallocate(
        _ old: UnsafeMutableRawPointer?, from oldCount: Int, to count: Int
    ) -> UnsafeMutableRawPointer {
        let new = allocate(count)
        if let old {
            new.copyMemory(from: old, byteCount: min(oldCount, count))
            giveBack(old)
        }
        return new
    }

    private static func giveBack(_ base: UnsafeMutableRawPointer) {
        let buffer = lent.withLock { lent in
            let address = UInt(bitPattern: base)
            guard let loans = lent.removeValue(forKey: address) else {
                return AlignedBuffer?.none
            }
            if let next = loans.others.last {
                lent[address] = Loans(last: next, others: Array(loans.others.dropLast()))
            }
            return loans.last
        }
        // Not the pool's: memory of the system.
        if buffer == nil { base.deallocate() }
    }
}
