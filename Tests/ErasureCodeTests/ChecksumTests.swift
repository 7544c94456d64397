import Checksum
import Model
import Testing

@testable import ErasureCode

/// The ways to have parity and checksums together must agree with parity and checksums apart.
@Suite struct ParityWithChecksums {
    private static let names = [
        "rs-3-2-64k", "rs-6-3-16k", "rs-10-4-32k", "xor-2-1-64k", "rs-2-7-16k",
    ]

    /// Lengths of a stripe's user bytes: every kind of last cell.
    private func lengths(_ replication: ErasureCoding) -> [Int] {
        let cell = replication.cellSize
        return [
            1, 100, 16_384, 16_385, cell, cell + 5000, replication.stripeSize - 1,
            replication.stripeSize,
        ].filter { $0 <= replication.stripeSize }
    }

    private func allocate(_ counts: [Int]) -> [UnsafeMutableRawBufferPointer] {
        counts.map { count in
            let bytes = UnsafeMutableRawBufferPointer.allocate(
                byteCount: max(count, 1), alignment: 64)
            bytes.initializeMemory(as: UInt8.self, repeating: 0xEE)
            return UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])
        }
    }

    @Test("a stripe copied into its cells has their bytes, parity and checksums", arguments: names)
    func copying(name: String) throws {
        let replication = try ErasureCoding(name)
        for kernel in GaloisKernel.available {
            let codec = Codec(replication, kernel: kernel)
            for length in lengths(replication) {
                let cells = stripe(replication, length: length, seed: UInt64(length))
                let expected = ScalarCodec(replication).encode(cells)
                let data = allocate(cells.map(\.count))
                let parity = allocate(expected.map(\.count))
                defer { for cell in data + parity { cell.deallocate() } }
                let checksums = cells.flatMap { $0 }.withUnsafeBytes {
                    codec.encodeAndChecksum(copying: $0, to: data, parity: parity)
                }
                #expect(data.map { Array($0) } == cells, "\(name), \(length) bytes, \(kernel)")
                #expect(parity.map { Array($0) } == expected, "\(name), \(length), \(kernel)")
                #expect(
                    checksums
                        == (cells + expected).map { $0.withUnsafeBytes { CRC32C.ofUnits($0) } })
            }
        }
    }

    @Test("parity with its checksums alone is that of all cells", arguments: names)
    func parityOnly(name: String) throws {
        let replication = try ErasureCoding(name)
        let codec = Codec(replication)
        for length in lengths(replication) {
            let cells = stripe(replication, length: length, seed: UInt64(length))
            let (expected, sums) = codec.encode(cells)
            let parity = allocate(expected.map(\.count))
            defer { for cell in parity { cell.deallocate() } }
            let found = withBuffers(cells) {
                codec.encodeAndChecksumParity(data: $0.compactMap { $0 }, parity: parity)
            }
            #expect(parity.map { Array($0) } == expected, "\(name), \(length) bytes")
            #expect(found == Array(sums[replication.data...]), "\(name), \(length) bytes")
        }
    }
}
