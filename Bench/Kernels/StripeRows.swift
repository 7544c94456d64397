import Checksum
import ErasureCode
import Glibc
import Model

/// Row 5: stripes that begin outside the cache and leave it: copy, checksums and parity against a
/// plain copy of the same bytes.
///
/// Sources and cells go round over several stripes, more than any cache holds.
struct StripeRows {
    let measurer: Measurer
    /// Bytes of sources, and about as many of cells: beyond the third-level cache of 32 MiB.
    private let round = 96 << 20
    /// Bytes of a piece that comes from a socket.
    private let piece = 256 * 1024

    func rows() throws -> [Comparison] {
        try [
            row("rs-6-3-1024k", "whole stripe") { codec, stripe, cells in
                _ = codec.encodeAndChecksum(
                    copying: stripe, to: cells.data, parity: cells.parity)
            },
            row("rs-6-3-1024k", "pieces, streamed") { codec, stripe, cells in
                pieces(codec, stripe, cells, streaming: true)
            },
            row("rs-6-3-1024k", "pieces, cached") { codec, stripe, cells in
                pieces(codec, stripe, cells, streaming: false)
            },
            row("rs-3-2-1024k", "whole stripe") { codec, stripe, cells in
                _ = codec.encodeAndChecksum(
                    copying: stripe, to: cells.data, parity: cells.parity)
            },
            row("rs-10-4-1024k", "whole stripe") { codec, stripe, cells in
                _ = codec.encodeAndChecksum(
                    copying: stripe, to: cells.data, parity: cells.parity)
            },
        ]
    }

    /// As a client fills a stripe: pieces are copied and checksummed as they come, parity is made
    /// when the last is there.
    private func pieces(
        _ codec: Codec, _ stripe: UnsafeRawBufferPointer, _ cells: Cells, streaming: Bool
    ) {
        let cell = codec.coding.cellSize
        for (index, target) in cells.data.enumerated() {
            var checksums = UnitChecksums(expecting: cell)
            for start in stride(from: 0, to: cell, by: piece) {
                let source = index * cell + start
                checksums.copy(
                    UnsafeRawBufferPointer(rebasing: stripe[source..<source + piece]),
                    to: UnsafeMutableRawBufferPointer(rebasing: target[start..<start + piece]),
                    streaming: streaming)
            }
            precondition(checksums.sums.count == cell / CRC32C.unit, "a checksum per unit")
        }
        _ = codec.encodeAndChecksumParity(data: cells.inputs, parity: cells.parity)
    }

    private func row(
        _ name: String, _ way: String,
        product: (Codec, UnsafeRawBufferPointer, Cells) -> Void
    ) throws -> Comparison {
        let coding = try ErasureCoding(name)
        let codec = Codec(coding)
        let size = coding.stripeSize
        let count = round / size
        let source = Cells.buffer(count * size, seed: 1)
        defer { source.deallocate() }
        let targets = (0..<count).map { _ in Cells(coding, bytes: coding.cellSize) }
        func stripe(_ index: Int) -> UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(rebasing: source[index * size..<(index + 1) * size])
        }
        return measurer.compare(
            row: 5, "\(coding.data)+\(coding.parity) copy, CRC32C, encode: \(way)",
            to: "memcpy", unit: .cost, goal: 1.6, bytes: count * size
        ) {
            for index in 0..<count {
                let stripe = stripe(index)
                for (number, cell) in targets[index].data.enumerated() {
                    memcpy(
                        cell.baseAddress!, stripe.baseAddress! + number * coding.cellSize,
                        coding.cellSize)
                }
            }
        } product: {
            for index in 0..<count { product(codec, stripe(index), targets[index]) }
        }
    }
}
