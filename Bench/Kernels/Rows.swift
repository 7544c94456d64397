import CISAL
import Checksum
import ErasureCode
import Glibc
import Model

/// The rows of the table.
struct Rows {
    let measurer: Measurer
    /// Bytes of a tile, for the rows in cache.
    let tile = 64 * 1024
    /// The codes measured, and the least ratio that encoding is to reach.
    private let codes = [("rs-6-3-1024k", 2.6), ("rs-10-4-1024k", 2.4), ("rs-3-2-1024k", 2.3)]

    /// Rows 1 and 2: parity of tiles in cache, by the best kernel or by ISA-L behind the same API.
    func encoding(kernel: GaloisKernel, row: Int, goal: Double?) throws -> [Comparison] {
        try codes.map { name, goalOfCode in
            let coding = try ErasureCoding(name)
            let cells = Cells(coding, bytes: tile)
            let codec = Codec(coding, kernel: kernel)
            let inputs = cells.inputs
            var call = ISALCall(coding, cells)
            call.run()
            let expected = cells.parity.map { CRC32C.of(UnsafeRawBufferPointer($0)) }
            codec.encode(data: inputs, parity: cells.parity)
            precondition(
                cells.parity.map { CRC32C.of(UnsafeRawBufferPointer($0)) } == expected,
                "both sides make the same parity")
            return measurer.compare(
                row: row, "encode \(coding.data)+\(coding.parity), \(kernel)",
                to: "ec_encode_data", unit: .throughput, goal: goal ?? goalOfCode,
                bytes: coding.data * tile
            ) {
                call.run()
            } product: {
                codec.encode(data: inputs, parity: cells.parity)
            }
        }
    }

    /// Row 3: cells rebuilt from tiles in cache, one and p of them.
    func decoding() throws -> [Comparison] {
        try codes.flatMap { name, _ in
            let coding = try ErasureCoding(name)
            return [
                decoding(coding, lost: 1, goal: 1.5),
                decoding(coding, lost: coding.parity, goal: 2.3),
            ]
        }
    }

    private func decoding(_ coding: ErasureCoding, lost: Int, goal: Double) -> Comparison {
        let cells = Cells(coding, bytes: tile)
        let codec = Codec(coding)
        codec.encode(data: cells.inputs, parity: cells.parity)
        let targets = (0..<lost).map { Cells.buffer(tile, seed: UInt64(200 + $0)) }
        defer { for target in targets { target.deallocate() } }
        // The first data cells are lost, and the first parity cells stand in for them.
        var call = ISALCall(
            coding, sources: Array(lost..<coding.data + lost),
            wanted: Array(0..<lost), cells: cells.all, into: targets)
        let left = cells.all.enumerated().map { index, cell in
            index < lost ? nil : UnsafeRawBufferPointer(cell)
        }
        let wanted = targets.enumerated().map {
            Codec.WantedCell(index: $0.offset, bytes: $0.element)
        }
        func rebuild() {
            do {
                try codec.decode(left, into: wanted)
            } catch {
                preconditionFailure("enough cells are left: \(error)")
            }
        }
        for way in [{ call.run() }, rebuild] {
            for target in targets { target.initializeMemory(as: UInt8.self, repeating: 0) }
            way()
            precondition(
                zip(targets, cells.data).allSatisfy {
                    memcmp($0.baseAddress!, $1.baseAddress!, tile) == 0
                },
                "both sides rebuild the lost cells")
        }
        return measurer.compare(
            row: 3, "decode \(coding.data)+\(coding.parity), \(lost) lost",
            to: "ec_encode_data", unit: .throughput, goal: goal, bytes: coding.data * tile
        ) {
            call.run()
        } product: {
            rebuild()
        }
    }

    /// Row 4: parity and the checksums of all cells of tiles in cache, against one after the other
    /// by ISA-L.
    func checksums() throws -> [Comparison] {
        try codes.map { name, _ in
            let coding = try ErasureCoding(name)
            let cells = Cells(coding, bytes: tile)
            let codec = Codec(coding)
            let inputs = cells.inputs
            var call = ISALCall(coding, cells)
            var found = [[UInt32]](
                repeating: [UInt32](repeating: 0, count: tile / CRC32C.unit),
                count: coding.width)
            func twoPasses() {
                call.run()
                for (index, cell) in cells.all.enumerated() {
                    for unit in 0..<tile / CRC32C.unit {
                        let start = (cell.baseAddress! + unit * CRC32C.unit)
                            .assumingMemoryBound(to: UInt8.self)
                        found[index][unit] = ~crc32_iscsi(start, Int32(CRC32C.unit), ~0)
                    }
                }
            }
            twoPasses()
            precondition(
                codec.encodeAndChecksum(data: inputs, parity: cells.parity) == found,
                "both sides find the same checksums")
            return measurer.compare(
                row: 4, "encode \(coding.data)+\(coding.parity) and CRC32C",
                to: "ec_encode_data, crc32_iscsi", unit: .throughput, goal: 1.3,
                bytes: coding.data * tile
            ) {
                twoPasses()
            } product: {
                _ = codec.encodeAndChecksum(data: inputs, parity: cells.parity)
            }
        }
    }
}
