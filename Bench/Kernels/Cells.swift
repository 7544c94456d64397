import CISAL
import ErasureCode
import Model

/// Cells of a stripe in page-aligned buffers of their own, as a client has them, filled with noise.
final class Cells {
    let data: [UnsafeMutableRawBufferPointer]
    let parity: [UnsafeMutableRawBufferPointer]

    init(_ coding: ErasureCoding, bytes: Int) {
        data = (0..<coding.data).map { Self.buffer(bytes, seed: UInt64($0)) }
        parity = (0..<coding.parity).map { Self.buffer(bytes, seed: UInt64(100 + $0)) }
    }

    deinit { for cell in data + parity { cell.deallocate() } }

    var inputs: [UnsafeRawBufferPointer] { data.map { UnsafeRawBufferPointer($0) } }
    var all: [UnsafeMutableRawBufferPointer] { data + parity }

    /// Page-aligned bytes that differ by `seed`. The caller deallocates.
    static func buffer(_ bytes: Int, seed: UInt64) -> UnsafeMutableRawBufferPointer {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 4096)
        var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
        for index in 0..<bytes {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            buffer[index] = UInt8(truncatingIfNeeded: state >> 24)
        }
        return buffer
    }
}

/// A call of ISA-L's `ec_encode_data`, with everything prepared that can be.
struct ISALCall {
    private var tables: [UInt8]
    private var sources: [UnsafeMutablePointer<UInt8>?]
    private var targets: [UnsafeMutablePointer<UInt8>?]
    private let bytes: Int32

    /// Makes the `wanted` cells, by number, from the `sources`, d of them, both into `cells`.
    init(
        _ coding: ErasureCoding, sources: [Int], wanted: [Int],
        cells: [UnsafeMutableRawBufferPointer], into targets: [UnsafeMutableRawBufferPointer]
    ) {
        let d = coding.data
        var generator = [UInt8](repeating: 0, count: coding.width * d)
        gf_gen_cauchy1_matrix(&generator, Int32(coding.width), Int32(d))
        var matrix = sources.flatMap { generator[$0 * d..<($0 + 1) * d] }
        var inverse = [UInt8](repeating: 0, count: d * d)
        let result = gf_invert_matrix(&matrix, &inverse, Int32(d))
        precondition(result == 0, "any d rows of the generator can be inverted")
        var elements: [UInt8] = []
        for row in wanted {
            for column in 0..<d {
                elements.append(
                    (0..<d).reduce(0) {
                        $0 ^ gf_mul(generator[row * d + $1], inverse[$1 * d + column])
                    })
            }
        }
        tables = [UInt8](repeating: 0, count: 32 * elements.count)
        ec_init_tables(Int32(d), Int32(wanted.count), &elements, &tables)
        self.sources = sources.map { cells[$0].assumingMemoryBound(to: UInt8.self).baseAddress }
        self.targets = targets.map { $0.assumingMemoryBound(to: UInt8.self).baseAddress }
        bytes = Int32(targets[0].count)
    }

    /// Encodes: from all data cells to all parity cells.
    init(_ coding: ErasureCoding, _ cells: Cells) {
        self.init(
            coding, sources: Array(0..<coding.data),
            wanted: Array(coding.data..<coding.width), cells: cells.all,
            into: cells.parity)
    }

    mutating func run() {
        ec_encode_data(
            bytes, Int32(sources.count), Int32(targets.count), &tables, &sources, &targets)
    }
}
