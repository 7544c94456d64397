import Model

@testable import ErasureCode

/// A small generator, so that a failing case can be named by its seed.
struct Noise: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state &* 0x2545_F491_4F6C_DD1D
    }

    mutating func bytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8.random(in: 0...255, using: &self) }
    }
}

/// Runs `body` with pointers to all of `cells`; an empty or lost cell has a null or no buffer.
func withBuffers<R>(
    _ cells: [[UInt8]?], _ body: ([UnsafeRawBufferPointer?]) throws -> R
) rethrows -> R {
    let copies = cells.map { cell -> UnsafeMutableRawBufferPointer? in
        guard let cell else { return nil }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: cell.count, alignment: 1)
        buffer.copyBytes(from: cell)
        return buffer
    }
    defer { for copy in copies { copy?.deallocate() } }
    return try body(copies.map { $0.map { UnsafeRawBufferPointer($0) } })
}

extension Codec {
    /// `encodeAndChecksum` on arrays.
    func encode(_ data: [[UInt8]]) -> (parity: [[UInt8]], checksums: [[UInt32]]) {
        let outputs = (0..<coding.parity).map { _ in
            UnsafeMutableRawBufferPointer.allocate(byteCount: data[0].count, alignment: 64)
        }
        defer { for output in outputs { output.deallocate() } }
        let checksums = withBuffers(data) { cells in
            encodeAndChecksum(data: cells.compactMap { $0 }, parity: outputs)
        }
        return (outputs.map { Array($0) }, checksums)
    }

    /// `decode` on arrays; `wanted` is (cell, bytes of it).
    func decode(_ cells: [[UInt8]?], wanted: [(Int, Int)]) throws -> [[UInt8]] {
        let outputs = wanted.map { index, count in
            WantedCell(
                index: index,
                bytes: UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 64))
        }
        defer { for output in outputs { output.bytes.deallocate() } }
        try withBuffers(cells) { try decode($0, into: outputs) }
        return outputs.map { Array($0.bytes) }
    }
}

/// The data cells of a stripe of `length` user bytes.
func stripe(_ replication: ErasureCoding, length: Int, seed: UInt64) -> [[UInt8]] {
    var noise = Noise(seed: seed)
    return (0..<replication.data).map { cell in
        noise.bytes(min(replication.cellSize, max(0, length - cell * replication.cellSize)))
    }
}
