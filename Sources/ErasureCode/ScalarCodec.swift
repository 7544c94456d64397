import Model

/// The code written down plainly, byte by byte: the reference that `Codec` is tested against.
///
/// Cell i of a stripe is replica index i + 1. Parity cell r is the sum over j of
/// `coefficient(row: d + r, column: j)` times data cell j, where a data cell that is shorter than
/// the first counts as padded with zeros.
public struct ScalarCodec: Sendable {
    public let coding: ErasureCoding

    public init(_ coding: ErasureCoding) { self.coding = coding }

    /// The entry of the generator matrix: the identity for data rows; for parity rows the Cauchy
    /// element 1 / (row xor column), or 1 for the xor codec.
    public func coefficient(row: Int, column: Int) -> UInt8 {
        precondition(
            row >= 0 && row < coding.width && column >= 0 && column < coding.data,
            "no such element of the generator matrix")
        if row < coding.data { return row == column ? 1 : 0 }
        switch coding.codec {
        case .rs: return GaloisField.inverse(UInt8(row ^ column))
        case .xor: return 1
        }
    }

    /// The parity cells of `data`, each as long as the longest data cell.
    public func encode(_ data: [[UInt8]]) -> [[UInt8]] {
        precondition(data.count == coding.data, "a stripe has \(coding.data) data cells")
        let length = data.map(\.count).max() ?? 0
        return (coding.data..<coding.width).map { row in
            let factors = (0..<coding.data).map { coefficient(row: row, column: $0) }
            return sum(of: data, factors: factors, length: length)
        }
    }

    /// The cells numbered `wanted`, `length` bytes of each. `nil` in `cells` is a lost cell; a
    /// cell shorter than `length` counts as padded with zeros.
    public func decode(
        _ cells: [[UInt8]?], wanted: [Int], length: Int
    ) throws(ErasureCodeError) -> [[UInt8]] {
        precondition(cells.count == coding.width, "a stripe has \(coding.width) cells")
        let sources = Array(cells.indices.filter { cells[$0] != nil }.prefix(coding.data))
        guard sources.count == coding.data else {
            throw .tooManyLosses(
                missing: cells.indices.filter { cells[$0] == nil }, present: sources.count,
                needed: coding.data)
        }
        let inverse = invert(
            sources.map { row in (0..<coding.data).map { coefficient(row: row, column: $0) } })
        let data = (0..<coding.data).map { index in
            sum(of: sources.map { cells[$0] ?? [] }, factors: inverse[index], length: length)
        }
        return wanted.map { index in
            let factors = (0..<coding.data).map { coefficient(row: index, column: $0) }
            return sum(of: data, factors: factors, length: length)
        }
    }

    private func sum(of cells: [[UInt8]], factors: [UInt8], length: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: length)
        for (cell, factor) in zip(cells, factors) {
            for (offset, byte) in cell.prefix(length).enumerated() {
                result[offset] ^= GaloisField.multiply(factor, byte)
            }
        }
        return result
    }

    /// Gauss and Jordan's method. Every square part of the generator matrix is invertible.
    private func invert(_ matrix: [[UInt8]]) -> [[UInt8]] {
        let size = matrix.count
        var left = matrix
        var right = (0..<size).map { row in (0..<size).map { UInt8($0 == row ? 1 : 0) } }
        for column in 0..<size {
            guard let pivot = (column..<size).first(where: { left[$0][column] != 0 }) else {
                preconditionFailure("the generator matrix of \(coding) is singular")
            }
            left.swapAt(column, pivot)
            right.swapAt(column, pivot)
            let scale = GaloisField.inverse(left[column][column])
            left[column] = left[column].map { GaloisField.multiply(scale, $0) }
            right[column] = right[column].map { GaloisField.multiply(scale, $0) }
            for row in 0..<size where row != column && left[row][column] != 0 {
                let factor = left[row][column]
                for k in 0..<size {
                    left[row][k] ^= GaloisField.multiply(factor, left[column][k])
                    right[row][k] ^= GaloisField.multiply(factor, right[column][k])
                }
            }
        }
        return right
    }
}
