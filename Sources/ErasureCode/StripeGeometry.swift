import Model

/// Where the bytes of a block group lie: pure arithmetic on (coding, group length).
///
/// Stripe s holds the group's bytes [s·d·cell, (s+1)·d·cell). Cell i of it (from 0) is the next
/// `cell` bytes of them, and lies at offset s·cell of the replica with index i + 1. Only the last
/// stripe may be short: its cells are full, then one is cut, then the rest are empty. Its parity
/// cells are as long as its first cell.
public struct StripeGeometry: Hashable, Sendable {
    public let coding: ErasureCoding
    /// User bytes of the group.
    public let groupLength: Int

    /// Precondition: `groupLength` is between 0 and `coding.blockGroupSize`.
    public init(_ coding: ErasureCoding, groupLength: Int) {
        precondition(
            groupLength >= 0 && groupLength <= coding.blockGroupSize,
            "a group of \(coding) holds at most \(coding.blockGroupSize) bytes")
        self.coding = coding
        self.groupLength = groupLength
    }

    /// Stripes, the last of which may be short.
    public var stripeCount: Int {
        (groupLength + coding.stripeSize - 1) / coding.stripeSize
    }

    /// User bytes in stripe `stripe`.
    public func stripeLength(_ stripe: Int) -> Int {
        precondition(stripe >= 0 && stripe < stripeCount, "no stripe \(stripe)")
        return min(coding.stripeSize, groupLength - stripe * coding.stripeSize)
    }

    /// Bytes of cell `cell` (from 0; parity from d on) of stripe `stripe`.
    public func cellLength(stripe: Int, cell: Int) -> Int {
        precondition(cell >= 0 && cell < coding.width, "no cell \(cell)")
        let position = cell < coding.data ? cell : 0
        let before = position * coding.cellSize
        return min(coding.cellSize, max(0, stripeLength(stripe) - before))
    }

    /// Bytes of the block replica with index `index` (1…d+p).
    public func replicaLength(index: Int) -> Int {
        precondition(index >= 1 && index <= coding.width, "no replica index \(index)")
        guard stripeCount > 0 else { return 0 }
        return (stripeCount - 1) * coding.cellSize
            + cellLength(stripe: stripeCount - 1, cell: index - 1)
    }

    /// A range of one cell.
    public struct CellRange: Hashable, Sendable {
        public var stripe: Int
        /// Number of the cell within the stripe, from 0; the replica's index is one more.
        public var cell: Int
        /// Bytes of the cell.
        public var range: Range<Int>
        /// Where `range` begins in the block replica.
        public var replicaOffset: Int

        public init(stripe: Int, cell: Int, range: Range<Int>, replicaOffset: Int) {
            self.stripe = stripe
            self.cell = cell
            self.range = range
            self.replicaOffset = replicaOffset
        }

        /// The index of the replica that holds the cell.
        public var replicaIndex: Int { cell + 1 }
        /// The bytes of the block replica.
        public var replicaRange: Range<Int> { replicaOffset..<replicaOffset + range.count }
    }

    /// The data cells that the group's bytes `range` lie in, in the order of the bytes.
    /// Precondition: `range` lies within the group.
    public func cells(in range: Range<Int>) -> [CellRange] {
        precondition(
            range.lowerBound >= 0 && range.upperBound <= groupLength,
            "bytes \(range) lie outside of a group of \(groupLength)")
        let size = coding.cellSize
        var result: [CellRange] = []
        result.reserveCapacity(range.isEmpty ? 0 : range.count / size + 2)
        var position = range.lowerBound
        while position < range.upperBound {
            let number = position / size
            let end = min(range.upperBound, (number + 1) * size)
            let part = position - number * size..<end - number * size
            result.append(
                cellRange(
                    stripe: number / coding.data, cell: number % coding.data, part))
            position = end
        }
        return result
    }

    /// The bytes `range` of cell `cell`, data or parity, cut where the cell ends; what a decoder
    /// needs of the other cells to rebuild `range` of one.
    public func cellRange(stripe: Int, cell: Int, _ range: Range<Int>) -> CellRange {
        let length = cellLength(stripe: stripe, cell: cell)
        let part = range.clamped(to: 0..<length)
        return CellRange(
            stripe: stripe, cell: cell, range: part,
            replicaOffset: stripe * coding.cellSize + part.lowerBound)
    }

    /// `part` rounded out to whole checksum units: what must be read to verify it. Cells begin at
    /// multiples of a unit, so units do not cross them; the end is cut where the cell ends.
    public func unitAligned(_ part: CellRange) -> CellRange {
        let unit = ReplicationConfig.checksumUnit
        guard !part.range.isEmpty else { return part }
        let lower = part.range.lowerBound / unit * unit
        let upper = (part.range.upperBound + unit - 1) / unit * unit
        return cellRange(stripe: part.stripe, cell: part.cell, lower..<upper)
    }
}
