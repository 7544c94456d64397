import Bytes
import Checksum
import Model
import Raft

/// The bytes of a log that many groups share, little-endian, format version 2.
///
/// A segment is a header block and then batches, each at a multiple of 4096 bytes and padded with
/// zeros to the next. A batch is what one sync made durable, and batch n + 1 is written only after
/// batch n is on stable media. Hence at most the last batch of the log can be torn by a crash: a
/// damaged batch that a later one follows was durable once, and its loss is never taken for the
/// end of the log.
///
/// Segments are reused. Each life of a segment has a random salt that all its batches carry, so
/// what is left of an earlier life counts as empty space.
///
/// Format 1 was the log of one group. Both begin with the same 52 bytes, so that each version
/// can tell the other by its number.
enum LogBytes {
    static let version: UInt16 = 2
    static let blockSize = AlignedBuffer.alignment

    static let segmentMagic: UInt64 = 0x0047_4F4C_5355_5041  // "APUSLOG\0"
    static let batchMagic: UInt32 = 0x3242_4C41  // "ALB2"

    /// `count` rounded up to whole blocks.
    static func padded(_ count: Int) -> Int { (count + blockSize - 1) & ~(blockSize - 1) }

    /// Why bytes could not be taken for what they should be.
    enum Refusal: Error, Equatable {
        /// Nothing of this life of the segment, or torn, or damaged: the checksum tells not which.
        case invalid
        /// Sound, but of another format.
        case version(UInt16)
        /// The checksum is right and the content is not: written by a defect.
        case malformed(offset: Int)
    }

    /// What the first block of a segment says.
    struct SegmentHeader: Equatable {
        /// Position of the segment in the log; without gaps.
        var sequence: UInt32
        /// Drawn anew for each life of the file.
        var salt: UInt64
        /// Number of the first batch in it.
        var firstBatch: UInt64
        /// Bytes of the whole file.
        var size: Int

        static let checkedBytes = 48

        func write(into block: UnsafeMutableRawBufferPointer) {
            precondition(block.count >= blockSize, "a segment header fills a block")
            for index in 0..<blockSize { block[index] = 0 }
            block.put(segmentMagic, at: 0)
            block.put(version, at: 8)
            block.put(UInt64(sequence), at: 16)
            block.put(salt, at: 24)
            block.put(firstBatch, at: 32)
            block.put(UInt64(size), at: 40)
            let checked = UnsafeRawBufferPointer(
                rebasing: UnsafeRawBufferPointer(block)[..<Self.checkedBytes])
            block.put(CRC32C.of(checked), at: Self.checkedBytes)
        }

        init(sequence: UInt32, salt: UInt64, firstBatch: UInt64, size: Int) {
            self.sequence = sequence
            self.salt = salt
            self.firstBatch = firstBatch
            self.size = size
        }

        init(reading block: UnsafeRawBufferPointer) throws(Refusal) {
            guard block.count >= blockSize, block.get(UInt64.self, at: 0) == segmentMagic
            else { throw .invalid }
            let checked = UnsafeRawBufferPointer(rebasing: block[..<Self.checkedBytes])
            guard CRC32C.of(checked) == block.get(UInt32.self, at: Self.checkedBytes) else {
                throw .invalid
            }
            let version = block.get(UInt16.self, at: 8)
            guard version == LogBytes.version else { throw .version(version) }
            guard let sequence = UInt32(exactly: block.get(UInt64.self, at: 16)),
                let size = Int(exactly: block.get(UInt64.self, at: 40))
            else { throw .malformed(offset: 0) }
            self.sequence = sequence
            self.size = size
            salt = block.get(UInt64.self, at: 24)
            firstBatch = block.get(UInt64.self, at: 32)
        }
    }

    /// What stands before the records of a batch.
    struct BatchHeader: Equatable {
        static let size = 40
        private static let checksumOffset = 36

        /// That of the segment's life.
        var salt: UInt64
        /// Counted over the whole log, without gaps.
        var number: UInt64
        var recordCount: Int
        /// Bytes after the header, without padding.
        var bodySize: Int
        /// The oldest segment that was needed when the batch was written. Older ones may be gone
        /// once it is durable, and none else.
        var oldest: UInt32

        /// Bytes in the segment, with padding.
        var paddedSize: Int { padded(Self.size + bodySize) }

        /// Writes the header before a body that is in place, and zeros behind it up to the next
        /// block.
        func seal(_ buffer: UnsafeMutableRawBufferPointer) {
            let end = Self.size + bodySize
            precondition(paddedSize <= buffer.count, "a batch that does not fit its buffer")
            for index in end..<paddedSize { buffer[index] = 0 }
            buffer.put(batchMagic, at: 0)
            buffer.put(version, at: 4)
            buffer.put(UInt16(0), at: 6)
            buffer.put(salt, at: 8)
            buffer.put(number, at: 16)
            buffer.put(UInt32(bodySize), at: 24)
            buffer.put(UInt32(recordCount), at: 28)
            buffer.put(oldest, at: 32)
            let whole = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<end])
            buffer.put(Self.checksum(whole), at: Self.checksumOffset)
        }

        init(salt: UInt64, number: UInt64, recordCount: Int, bodySize: Int, oldest: UInt32) {
            self.oldest = oldest
            self.salt = salt
            self.number = number
            self.recordCount = recordCount
            self.bodySize = bodySize
        }

        /// Reads the header at the start of `bytes`, which reach to the end of the segment, and
        /// checks the whole batch.
        init(reading bytes: UnsafeRawBufferPointer, salt: UInt64) throws(Refusal) {
            guard bytes.count >= Self.size, bytes.get(UInt32.self, at: 0) == batchMagic,
                bytes.get(UInt64.self, at: 8) == salt
            else { throw .invalid }
            let size = Int(bytes.get(UInt32.self, at: 24))
            guard size <= bytes.count - Self.size else { throw .invalid }
            let whole = UnsafeRawBufferPointer(rebasing: bytes[..<(Self.size + size)])
            guard Self.checksum(whole) == bytes.get(UInt32.self, at: Self.checksumOffset) else {
                throw .invalid
            }
            let version = bytes.get(UInt16.self, at: 4)
            guard version == LogBytes.version else { throw .version(version) }
            self.salt = salt
            number = bytes.get(UInt64.self, at: 16)
            bodySize = size
            recordCount = Int(bytes.get(UInt32.self, at: 28))
            oldest = bytes.get(UInt32.self, at: 32)
        }

        /// CRC32C of the header without the checksum's own field, and the body.
        private static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
            let header = UnsafeRawBufferPointer(rebasing: bytes[..<checksumOffset])
            let body = UnsafeRawBufferPointer(rebasing: bytes[size...])
            return CRC32C.update(CRC32C.of(header), body)
        }
    }
}

extension UnsafeMutableRawBufferPointer {
    /// Stores `value` in little-endian order at any byte offset.
    func put<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    }
}

extension UnsafeRawBufferPointer {
    /// Loads a little-endian number from any byte offset.
    func get<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, at offset: Int) -> T {
        T(littleEndian: loadUnaligned(fromByteOffset: offset, as: T.self))
    }
}
