import CChecksum

extension CRC32C {
    /// The checksum of bytes that are in the processor's second-level cache, as those just written
    /// are: 66 instead of 57 GB/s there on Zen 4, but slower than `of` from further away.
    public static func ofCached(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        guard canFold, let start = bytes.baseAddress else { return of(bytes) }
        return ~apus_crc32c_cached(~0, start, bytes.count)
    }

    /// Copies `bytes` to `target` and returns the checksum of what `crc` covers followed by them,
    /// reading them once.
    ///
    /// With `streaming` the copy goes past the cache to memory: two thirds of the time of a plain
    /// copy of what does not fit there, but whoever reads the copy next has to fetch it.
    /// Preconditions: `target` is as long as `bytes`, and they do not overlap.
    public static func copy(
        _ bytes: UnsafeRawBufferPointer, to target: UnsafeMutableRawBufferPointer,
        after crc: UInt32 = 0, streaming: Bool = false
    ) -> UInt32 {
        precondition(target.count == bytes.count, "a copy is as long as what is copied")
        guard let from = bytes.baseAddress, let to = target.baseAddress else { return crc }
        guard canFold else { return copyByISAL(bytes, to: target, after: crc) }
        return streaming
            ? ~apus_crc32c_stream_copy(~crc, from, to, bytes.count)
            : ~apus_crc32c_copy(~crc, from, to, bytes.count)
    }

    /// The same as `copy`, by ISA-L: a piece at a time, so that it is read from memory once.
    static func copyByISAL(
        _ bytes: UnsafeRawBufferPointer, to target: UnsafeMutableRawBufferPointer,
        after crc: UInt32
    ) -> UInt32 {
        var crc = crc
        for start in stride(from: 0, to: bytes.count, by: unit) {
            let part = start..<min(start + unit, bytes.count)
            let piece = UnsafeRawBufferPointer(rebasing: bytes[part])
            UnsafeMutableRawBufferPointer(rebasing: target[part]).copyMemory(from: piece)
            crc = updateByISAL(crc, piece)
        }
        return crc
    }
}

/// The checksums of the units of a cell, taken as its bytes arrive in pieces of any length.
///
/// Holds as much as it needs from the start if told how much to expect; copies nothing itself but
/// what `copy` is for.
public struct UnitChecksums: Sendable {
    /// Bytes that one checksum covers.
    public let unit: Int
    /// Bytes taken so far.
    public private(set) var count = 0
    /// One per unit that was begun; the last covers what there is of its unit so far.
    public private(set) var sums: [UInt32] = []

    /// For about `expected` bytes; more may come. Precondition: `unit` > 0.
    public init(expecting expected: Int = 0, unit: Int = CRC32C.unit) {
        precondition(unit > 0 && expected >= 0, "a unit has at least one byte")
        self.unit = unit
        sums.reserveCapacity(CRC32C.unitCount(expected, unit: unit))
    }

    /// Takes `bytes` and copies them to `target`, which is as long and does not overlap them.
    /// About `streaming` see `CRC32C.copy`.
    public mutating func copy(
        _ bytes: UnsafeRawBufferPointer, to target: UnsafeMutableRawBufferPointer,
        streaming: Bool = false
    ) {
        precondition(target.count == bytes.count, "a copy is as long as what is copied")
        take(bytes.count) { part, crc in
            CRC32C.copy(
                UnsafeRawBufferPointer(rebasing: bytes[part]),
                to: UnsafeMutableRawBufferPointer(rebasing: target[part]), after: crc,
                streaming: streaming)
        }
    }

    /// Takes `bytes` that stay where they are.
    public mutating func append(_ bytes: UnsafeRawBufferPointer) {
        take(bytes.count) { part, crc in
            CRC32C.update(crc, UnsafeRawBufferPointer(rebasing: bytes[part]))
        }
    }

    /// Takes `length` bytes in parts that do not cross units; `body` gets a part and the checksum
    /// of its unit before, and returns that after.
    private mutating func take(_ length: Int, _ body: (Range<Int>, UInt32) -> UInt32) {
        var start = 0
        while start < length {
            let used = count % unit
            let end = min(length, start + unit - used)
            if used == 0 {
                sums.append(body(start..<end, 0))
            } else {
                sums[sums.count - 1] = body(start..<end, sums[sums.count - 1])
            }
            count += end - start
            start = end
        }
    }
}
