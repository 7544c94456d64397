import CISAL
import Checksum
import Model
import Synchronization

/// Encodes and rebuilds the cells of a stripe, by the best `GaloisKernel` of the processor.
///
/// Cell i (from 0) of a stripe is replica index i + 1: d data cells, then p parity cells. A data
/// cell that is shorter than the stripe's first counts as padded with zeros; the padding is
/// neither asked for nor written. The work goes in tiles of some bytes of each cell, so that what
/// one pass leaves in the processor's cache is there for the next.
///
/// Thread-safe. Inverted matrices are kept, at most `Limits.plans` of them.
public final class Codec: Sendable {
    public enum Limits {
        /// Bytes of each cell that are worked on at a time where nothing but parity is made, so
        /// that a second pass over the inputs, for many rows, finds them in cache.
        public static let tile = 64 * 1024
        /// Inverted matrices kept. One per set of lost cells in use; a failed node makes one per
        /// replica index that it held.
        public static let plans = 64
    }

    public let coding: ErasureCoding
    /// What does the arithmetic.
    public let kernel: GaloisKernel
    let encoding: LinearMap
    /// The generator matrix, d + p rows of d elements.
    private let generator: [UInt8]
    private let plans: Mutex<PlanCache>

    /// Precondition: the processor has `kernel`. Others than the best are for tests and
    /// comparisons.
    public init(_ coding: ErasureCoding, kernel: GaloisKernel = .best) {
        let data = coding.data
        let width = coding.width
        var generator = [UInt8](repeating: 1, count: width * data)
        gf_gen_cauchy1_matrix(&generator, Int32(width), Int32(data))
        if coding.codec == .xor {
            for column in 0..<data { generator[data * data + column] = 1 }
        }
        self.coding = coding
        self.kernel = kernel
        self.generator = generator
        encoding = LinearMap(
            rows: coding.parity, columns: data,
            coefficients: Array(generator[(data * data)...]), kernel: kernel)
        plans = Mutex(PlanCache(limit: Limits.plans))
    }

    /// Writes the parity cells of `data`.
    ///
    /// Preconditions: d data cells, none longer than the first; p parity cells, each as long as
    /// the first data cell; no overlap between them.
    public func encode(
        data: [UnsafeRawBufferPointer], parity: [UnsafeMutableRawBufferPointer]
    ) {
        let length = checkedLength(data, parity)
        for start in stride(from: 0, to: length, by: Limits.tile) {
            encoding.apply(data, parity, in: start..<min(start + Limits.tile, length))
        }
    }

    /// A cell to be rebuilt, and where to.
    public struct WantedCell {
        /// Number of the cell within the stripe, from 0.
        public var index: Int
        public var bytes: UnsafeMutableRawBufferPointer

        public init(index: Int, bytes: UnsafeMutableRawBufferPointer) {
            self.index = index
            self.bytes = bytes
        }
    }

    /// Rebuilds the `wanted` cells from those that are there.
    ///
    /// All buffers may be the same byte range of their cells instead of whole cells: coding is
    /// byte by byte. A data cell that the range passes the end of is given as far as it goes; one
    /// that the group never reached is given empty, and costs nothing.
    /// - Parameter cells: d + p entries; `nil` where a cell is lost or not read.
    /// - Throws: `tooManyLosses` if fewer than d are there. Nothing is written then.
    ///
    /// Preconditions: wanted cells are `nil` in `cells`, each is wanted once, and parity cells
    /// reach as far as any wanted one.
    public func decode(
        _ cells: [UnsafeRawBufferPointer?], into wanted: [WantedCell]
    ) throws(ErasureCodeError) {
        precondition(cells.count == coding.width, "a stripe has \(coding.width) cells")
        var sources: UInt32 = 0
        for (index, cell) in cells.enumerated()
        where cell != nil && sources.nonzeroBitCount < coding.data {
            sources |= 1 << UInt32(index)
        }
        guard sources.nonzeroBitCount == coding.data else {
            throw .tooManyLosses(
                missing: cells.indices.filter { cells[$0] == nil },
                present: sources.nonzeroBitCount, needed: coding.data)
        }
        var asked: UInt32 = 0
        var length = 0
        for cell in wanted {
            precondition(
                cells.indices.contains(cell.index) && cells[cell.index] == nil
                    && asked & 1 << UInt32(cell.index) == 0,
                "a wanted cell is one of the lost, and wanted once")
            asked |= 1 << UInt32(cell.index)
            length = max(length, cell.bytes.count)
        }
        guard length > 0 else { return }
        let key = PlanKey(sources: sources, wanted: asked)
        rebuild(key, cells, wanted, length, plan(key))
    }

    /// The checked part of `decode`: makes the cells of `key.wanted` from those of `key.sources`.
    private func rebuild(
        _ key: PlanKey, _ cells: [UnsafeRawBufferPointer?], _ wanted: [WantedCell], _ length: Int,
        _ map: LinearMap
    ) {
        withUnsafeTemporaryAllocation(
            of: UnsafeRawBufferPointer.self, capacity: map.columns
        ) { inputs in
            var count = 0
            for index in cells.indices where key.sources & 1 << UInt32(index) != 0 {
                precondition(
                    index < coding.data || cells[index]!.count >= length,
                    "parity does not reach the end of the wanted cell")
                inputs.initializeElement(at: count, to: cells[index]!)
                count += 1
            }
            withUnsafeTemporaryAllocation(
                of: UnsafeMutableRawBufferPointer.self, capacity: map.rows
            ) { outputs in
                for cell in wanted {
                    // Its place among the wanted, by number.
                    let before = key.wanted & (1 << UInt32(cell.index) - 1)
                    outputs.initializeElement(at: before.nonzeroBitCount, to: cell.bytes)
                }
                for start in stride(from: 0, to: length, by: Limits.tile) {
                    map.apply(
                        UnsafeBufferPointer(inputs), UnsafeBufferPointer(outputs),
                        in: start..<min(start + Limits.tile, length))
                }
            }
        }
    }

    /// How many inverted matrices are kept now.
    var planCount: Int { plans.withLock { $0.count } }

    /// The length of the first cell, once the preconditions of `encode` are seen to hold.
    func checkedLength(
        _ data: [UnsafeRawBufferPointer], _ parity: [UnsafeMutableRawBufferPointer]
    ) -> Int {
        precondition(
            data.count == coding.data && parity.count == coding.parity,
            "a stripe of \(coding) has \(coding.data) data and "
                + "\(coding.parity) parity cells")
        let length = data[0].count
        precondition(
            data.allSatisfy { $0.count <= length } && parity.allSatisfy { $0.count == length },
            "no data cell is longer than the first, and parity cells are as long as it")
        return length
    }

    /// The matrix from the cells `sources` (d of them) to the cells `wanted`, both ascending.
    private func plan(_ key: PlanKey) -> LinearMap {
        if let known = plans.withLock({ $0[key] }) { return known }
        let data = coding.data
        let sources = (0..<coding.width).filter { key.sources & 1 << UInt32($0) != 0 }
        let wanted = (0..<coding.width).filter { key.wanted & 1 << UInt32($0) != 0 }
        var matrix = sources.flatMap { generator[$0 * data..<($0 + 1) * data] }
        var inverse = [UInt8](repeating: 0, count: data * data)
        let result = gf_invert_matrix(&matrix, &inverse, Int32(data))
        precondition(result == 0, "the generator matrix of \(coding) is singular")
        var elements: [UInt8] = []
        for row in wanted {
            for column in 0..<data {
                var element: UInt8 = 0
                for k in 0..<data {
                    element ^= gf_mul(generator[row * data + k], inverse[k * data + column])
                }
                elements.append(element)
            }
        }
        let map = LinearMap(
            rows: wanted.count, columns: data, coefficients: elements, kernel: kernel)
        plans.withLock { $0.insert(map, key) }
        return map
    }
}
