import Bytes
import Checksum

/// The bytes of a segment of the log, little-endian.
///
/// A segment is a header block and then batches, each at a multiple of 4096 bytes and padded with
/// zeros to the next. A batch is what one sync made durable; the next is written only after that.
/// Hence at most the last batch of the log can be torn by a crash: a damaged batch that a later
/// one follows was durable once, and its loss is never taken for the end of the log.
///
/// Segments are reused. Each life of a segment has a salt of its own, which all its batches
/// carry, so that what is left of an earlier life counts as empty space.
enum LogFormat {
    static let version: UInt16 = 1
    static let blockSize = AlignedBuffer.alignment
    static let batchHeaderSize = 48
    /// Bytes before each command of a batch: its length.
    static let entryHeaderSize = 4

    static let segmentMagic: UInt64 = 0x0047_4F4C_5355_5041  // "APUSLOG\0"
    static let batchMagic: UInt32 = 0x424C_5041  // "APLB"

    static func padded(_ count: Int) -> Int { (count + blockSize - 1) & ~(blockSize - 1) }

    /// Bytes that a batch of these commands takes in a segment.
    static func batchSize(_ commands: [[UInt8]]) -> Int {
        var size = batchHeaderSize
        for command in commands { size += entryHeaderSize + command.count }
        return padded(size)
    }

    /// Why bytes could not be taken for what they should be.
    enum Refusal: Error, Equatable {
        /// Nothing of this life of the segment, or torn, or damaged: the checksum tells not which.
        case invalid
        case version(UInt16)
    }
}

/// What the first block of a segment says.
struct SegmentHeader: Equatable {
    /// Position of the segment in the log; without gaps.
    var sequence: UInt64
    var salt: UInt64
    /// Index of the first command in it.
    var firstIndex: UInt64
    var term: UInt64 = 0

    private static let checkedBytes = 48

    func write(into block: UnsafeMutableRawBufferPointer) {
        precondition(block.count >= LogFormat.blockSize, "a segment header fills a block")
        for index in 0..<LogFormat.blockSize { block[index] = 0 }
        block.storeBytes(of: LogFormat.segmentMagic.littleEndian, toByteOffset: 0, as: UInt64.self)
        block.storeBytes(of: LogFormat.version.littleEndian, toByteOffset: 8, as: UInt16.self)
        block.storeBytes(of: sequence.littleEndian, toByteOffset: 16, as: UInt64.self)
        block.storeBytes(of: salt.littleEndian, toByteOffset: 24, as: UInt64.self)
        block.storeBytes(of: firstIndex.littleEndian, toByteOffset: 32, as: UInt64.self)
        block.storeBytes(of: term.littleEndian, toByteOffset: 40, as: UInt64.self)
        let checked = UnsafeRawBufferPointer(
            rebasing: UnsafeRawBufferPointer(block)[..<Self.checkedBytes])
        block.storeBytes(
            of: CRC32C.of(checked).littleEndian, toByteOffset: Self.checkedBytes, as: UInt32.self)
    }

    init(sequence: UInt64, salt: UInt64, firstIndex: UInt64) {
        self.sequence = sequence
        self.salt = salt
        self.firstIndex = firstIndex
    }

    init(reading block: UnsafeRawBufferPointer) throws(LogFormat.Refusal) {
        guard block.count >= LogFormat.blockSize,
            UInt64(littleEndian: block.load(as: UInt64.self)) == LogFormat.segmentMagic
        else { throw .invalid }
        let checked = UnsafeRawBufferPointer(rebasing: block[..<Self.checkedBytes])
        let stored = UInt32(
            littleEndian: block.load(fromByteOffset: Self.checkedBytes, as: UInt32.self))
        guard CRC32C.of(checked) == stored else { throw .invalid }
        let version = UInt16(littleEndian: block.load(fromByteOffset: 8, as: UInt16.self))
        guard version == LogFormat.version else { throw .version(version) }
        sequence = UInt64(littleEndian: block.load(fromByteOffset: 16, as: UInt64.self))
        salt = UInt64(littleEndian: block.load(fromByteOffset: 24, as: UInt64.self))
        firstIndex = UInt64(littleEndian: block.load(fromByteOffset: 32, as: UInt64.self))
        term = UInt64(littleEndian: block.load(fromByteOffset: 40, as: UInt64.self))
    }
}

/// What stands before the commands of a batch.
struct BatchHeader: Equatable {
    var salt: UInt64
    /// Index of the first command.
    var firstIndex: UInt64
    var term: UInt64
    var count: Int
    /// Bytes after the header, without padding.
    var bodySize: Int

    private static let checksumOffset = 44

    /// Bytes in the segment, with padding.
    var paddedSize: Int { LogFormat.padded(LogFormat.batchHeaderSize + bodySize) }

    /// Writes a batch of `commands` at the start of `buffer`, padded with zeros.
    static func writeBatch(
        _ commands: [[UInt8]], firstIndex: UInt64, term: UInt64, salt: UInt64,
        into buffer: UnsafeMutableRawBufferPointer
    ) {
        let size = LogFormat.batchSize(commands)
        precondition(size <= buffer.count, "a batch that does not fit its buffer")
        var at = LogFormat.batchHeaderSize
        for command in commands {
            buffer.storeBytes(
                of: UInt32(command.count).littleEndian, toByteOffset: at, as: UInt32.self)
            at += LogFormat.entryHeaderSize
            command.withUnsafeBytes { bytes in
                UnsafeMutableRawBufferPointer(rebasing: buffer[at..<at + bytes.count])
                    .copyMemory(from: bytes)
            }
            at += command.count
        }
        for index in at..<size { buffer[index] = 0 }
        buffer.storeBytes(of: LogFormat.batchMagic.littleEndian, toByteOffset: 0, as: UInt32.self)
        buffer.storeBytes(of: LogFormat.version.littleEndian, toByteOffset: 4, as: UInt16.self)
        buffer.storeBytes(of: 0, toByteOffset: 6, as: UInt16.self)
        buffer.storeBytes(of: salt.littleEndian, toByteOffset: 8, as: UInt64.self)
        buffer.storeBytes(of: firstIndex.littleEndian, toByteOffset: 16, as: UInt64.self)
        buffer.storeBytes(of: term.littleEndian, toByteOffset: 24, as: UInt64.self)
        buffer.storeBytes(
            of: UInt32(commands.count).littleEndian, toByteOffset: 32, as: UInt32.self)
        let bodySize = at - LogFormat.batchHeaderSize
        buffer.storeBytes(of: UInt64(bodySize).littleEndian, toByteOffset: 36, as: UInt64.self)
        let checksum = Self.checksum(
            UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<at]))
        buffer.storeBytes(of: checksum.littleEndian, toByteOffset: checksumOffset, as: UInt32.self)
    }

    /// Reads the header at the start of `bytes`, which reach to the end of the segment, and
    /// checks the whole batch.
    init(reading bytes: UnsafeRawBufferPointer, salt: UInt64) throws(LogFormat.Refusal) {
        guard bytes.count >= LogFormat.batchHeaderSize,
            UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)) == LogFormat.batchMagic,
            UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)) == salt
        else { throw .invalid }
        let size = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 36, as: UInt64.self))
        guard size <= UInt64(bytes.count - LogFormat.batchHeaderSize) else { throw .invalid }
        let whole = UnsafeRawBufferPointer(
            rebasing: bytes[..<(LogFormat.batchHeaderSize + Int(size))])
        let stored = UInt32(
            littleEndian: bytes.loadUnaligned(
                fromByteOffset: Self.checksumOffset, as: UInt32.self))
        guard Self.checksum(whole) == stored else { throw .invalid }
        let version = UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self))
        guard version == LogFormat.version else { throw .version(version) }
        self.salt = salt
        bodySize = Int(size)
        firstIndex = UInt64(
            littleEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        term = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        count = Int(
            UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 32, as: UInt32.self)))
    }

    /// The commands of a batch whose header was read from the start of `bytes`.
    func commands(in bytes: UnsafeRawBufferPointer) throws(LogFormat.Refusal) -> [[UInt8]] {
        var commands: [[UInt8]] = []
        commands.reserveCapacity(min(count, bodySize / LogFormat.entryHeaderSize))
        var at = LogFormat.batchHeaderSize
        let end = at + bodySize
        while at < end {
            guard at + LogFormat.entryHeaderSize <= end else { throw .invalid }
            let size = Int(
                UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self)))
            at += LogFormat.entryHeaderSize
            guard size <= end - at else { throw .invalid }
            commands.append(Array(bytes[at..<at + size]))
            at += size
        }
        guard commands.count == count else { throw .invalid }
        return commands
    }

    /// CRC32C of the header without the checksum's own field, and the body.
    private static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        let header = UnsafeRawBufferPointer(rebasing: bytes[..<checksumOffset])
        let body = UnsafeRawBufferPointer(rebasing: bytes[LogFormat.batchHeaderSize...])
        return CRC32C.update(CRC32C.of(header), body)
    }
}
