import Checksum
import Model

/// Parity and checksums together, while the bytes are in cache.
///
/// Checksums are CRC32C of every 4 KiB unit of a cell, the last of which may be short.
extension Codec {
    /// Bytes of each cell between coding and checksums: whole units. Those of nine cells are
    /// 144 KiB, a share of the second-level cache; measured against 32 and 64 KiB in
    /// docs/internals/erasure-coding.md.
    private static var checksumTile: Int { 4 * CRC32C.unit }

    /// Writes the parity cells of `data` and returns the checksums of every cell: d + p lists,
    /// data first. Preconditions as for `encode`.
    public func encodeAndChecksum(
        data: [UnsafeRawBufferPointer], parity: [UnsafeMutableRawBufferPointer]
    ) -> [[UInt32]] {
        let length = checkedLength(data, parity)
        var checksums = emptyLists(data.map(\.count) + parity.map(\.count))
        forEachTile(length) { tile in
            encoding.apply(data, parity, in: tile)
            for index in data.indices where data[index].count > tile.lowerBound {
                let end = min(tile.upperBound, data[index].count)
                forEachUnit(tile.lowerBound..<end) { unit in
                    checksums[index].append(
                        CRC32C.ofCached(UnsafeRawBufferPointer(rebasing: data[index][unit])))
                }
            }
            appendParityChecksums(parity, in: tile, to: &checksums, from: data.count)
        }
        return checksums
    }

    /// Writes the parity cells of `data`, whose own checksums are known already, and returns those
    /// of parity: p lists. Preconditions as for `encode`.
    public func encodeAndChecksumParity(
        data: [UnsafeRawBufferPointer], parity: [UnsafeMutableRawBufferPointer]
    ) -> [[UInt32]] {
        let length = checkedLength(data, parity)
        var checksums = emptyLists(parity.map(\.count))
        forEachTile(length) { tile in
            encoding.apply(data, parity, in: tile)
            appendParityChecksums(parity, in: tile, to: &checksums, from: 0)
        }
        return checksums
    }

    /// Takes the user bytes of one stripe apart: copies them to the data cells, writes parity, and
    /// returns the checksums of every cell as `encodeAndChecksum` does, reading `stripe` from
    /// memory once.
    ///
    /// The copies go past the cache, straight to memory: for stripes that begin outside the cache
    /// and are sent on later.
    ///
    /// Preconditions: `stripe` is at least one byte and at most a stripe; `data` are d cells, each
    /// as long as its share of it; parity cells are as long as the first; no overlap.
    public func encodeAndChecksum(
        copying stripe: UnsafeRawBufferPointer, to data: [UnsafeMutableRawBufferPointer],
        parity: [UnsafeMutableRawBufferPointer]
    ) -> [[UInt32]] {
        precondition(
            !stripe.isEmpty && stripe.count <= coding.stripeSize,
            "a stripe has 1 to \(coding.stripeSize) bytes, not \(stripe.count)")
        let cell = coding.cellSize
        let sources = (0..<coding.data).map { index in
            UnsafeRawBufferPointer(
                rebasing: stripe[
                    min(index * cell, stripe.count)..<min((index + 1) * cell, stripe.count)])
        }
        let length = checkedLength(sources, parity)
        precondition(
            data.map(\.count) == sources.map(\.count), "a data cell is as long as its share")
        var checksums = emptyLists(data.map(\.count) + parity.map(\.count))
        forEachTile(length) { tile in
            for index in data.indices where data[index].count > tile.lowerBound {
                let part = tile.lowerBound..<min(tile.upperBound, data[index].count)
                forEachUnit(part) { unit in
                    checksums[index].append(
                        CRC32C.copy(
                            UnsafeRawBufferPointer(rebasing: sources[index][unit]),
                            to: UnsafeMutableRawBufferPointer(rebasing: data[index][unit]),
                            streaming: true))
                }
            }
            // From the source, which is in cache now; the copies are not.
            encoding.apply(sources, parity, in: tile)
            appendParityChecksums(parity, in: tile, to: &checksums, from: data.count)
        }
        return checksums
    }

    private func forEachTile(_ length: Int, _ body: (Range<Int>) -> Void) {
        for start in stride(from: 0, to: length, by: Self.checksumTile) {
            body(start..<min(start + Self.checksumTile, length))
        }
    }

    /// The checksum units of `range`, which begins at one.
    private func forEachUnit(_ range: Range<Int>, _ body: (Range<Int>) -> Void) {
        for start in stride(from: range.lowerBound, to: range.upperBound, by: CRC32C.unit) {
            body(start..<min(start + CRC32C.unit, range.upperBound))
        }
    }

    private func emptyLists(_ counts: [Int]) -> [[UInt32]] {
        counts.map { count in
            var list: [UInt32] = []
            list.reserveCapacity(CRC32C.unitCount(count))
            return list
        }
    }

    private func appendParityChecksums(
        _ parity: [UnsafeMutableRawBufferPointer], in tile: Range<Int>,
        to checksums: inout [[UInt32]], from first: Int
    ) {
        for (index, cell) in parity.enumerated() {
            let cell = UnsafeRawBufferPointer(cell)
            forEachUnit(tile) { unit in
                checksums[first + index].append(
                    CRC32C.ofCached(UnsafeRawBufferPointer(rebasing: cell[unit])))
            }
        }
    }
}
