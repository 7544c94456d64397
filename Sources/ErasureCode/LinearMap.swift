import CISAL

/// A matrix over GF(2^8) with ISA-L's expanded tables: makes each output byte from the input
/// bytes at the same offset.
///
/// Inputs and outputs may differ in length. An input counts as zero past its end; an output is
/// written up to its own end.
struct LinearMap: Sendable {
    /// Number of outputs.
    let rows: Int
    /// Number of inputs.
    let columns: Int
    /// Row by row.
    let coefficients: [UInt8]
    private let tables: [UInt8]

    init(rows: Int, columns: Int, coefficients: [UInt8]) {
        precondition(
            rows > 0 && columns > 0 && coefficients.count == rows * columns,
            "a matrix has rows × columns elements")
        self.rows = rows
        self.columns = columns
        self.coefficients = coefficients
        tables = Self.expand(rows: rows, columns: columns, coefficients)
    }

    /// Bytes of ISA-L's table for one element.
    private static let tableBytes = 32

    private static func expand(rows: Int, columns: Int, _ elements: [UInt8]) -> [UInt8] {
        let size = rows * columns * tableBytes
        return [UInt8](unsafeUninitializedCapacity: size) { tables, count in
            var elements = elements
            ec_init_tables(Int32(columns), Int32(rows), &elements, tables.baseAddress)
            count = size
        }
    }

    /// Writes the bytes of `range` of every output that reaches into it.
    func apply(
        _ inputs: [UnsafeRawBufferPointer], _ outputs: [UnsafeMutableRawBufferPointer],
        in range: Range<Int>
    ) {
        precondition(
            inputs.count == columns && outputs.count == rows, "one buffer per row and column")
        var start = range.lowerBound
        while start < range.upperBound {
            // Up to the next place where an input or an output ends.
            var end = range.upperBound
            for input in inputs where input.count > start { end = min(end, input.count) }
            for output in outputs where output.count > start { end = min(end, output.count) }
            applySegment(inputs, outputs, start..<end)
            start = end
        }
    }

    /// As `apply`, for a range that no buffer ends within.
    private func applySegment(
        _ inputs: [UnsafeRawBufferPointer], _ outputs: [UnsafeMutableRawBufferPointer],
        _ range: Range<Int>
    ) {
        typealias Pointer = UnsafeMutablePointer<UInt8>?
        withUnsafeTemporaryAllocation(of: Pointer.self, capacity: columns + rows) { pointers in
            let sources = UnsafeMutableBufferPointer(rebasing: pointers[..<columns])
            let targets = UnsafeMutableBufferPointer(rebasing: pointers[columns...])
            var sourceCount = 0
            for input in inputs where input.count >= range.upperBound {
                // The header lacks `const`; inputs are only read.
                let start = UnsafeMutableRawPointer(mutating: input.baseAddress!)
                sources[sourceCount] = (start + range.lowerBound)
                    .assumingMemoryBound(to: UInt8.self)
                sourceCount += 1
            }
            var targetCount = 0
            for output in outputs where output.count >= range.upperBound {
                targets[targetCount] = (output.baseAddress! + range.lowerBound)
                    .assumingMemoryBound(to: UInt8.self)
                targetCount += 1
            }
            if targetCount == 0 { return }
            if sourceCount == 0 {
                for index in 0..<targetCount {
                    targets[index]!.update(repeating: 0, count: range.count)
                }
                return
            }
            let isWhole = sourceCount == columns && targetCount == rows
            let active =
                isWhole
                ? tables
                : Self.expand(
                    rows: targetCount, columns: sourceCount,
                    submatrix(inputs, outputs, at: range.upperBound))
            active.withUnsafeBufferPointer { active in
                ec_encode_data(
                    Int32(range.count), Int32(sourceCount), Int32(targetCount),
                    UnsafeMutablePointer(mutating: active.baseAddress),
                    sources.baseAddress, targets.baseAddress)
            }
        }
    }

    /// The elements of the inputs and outputs that reach `end`.
    private func submatrix(
        _ inputs: [UnsafeRawBufferPointer], _ outputs: [UnsafeMutableRawBufferPointer], at end: Int
    ) -> [UInt8] {
        var elements: [UInt8] = []
        for row in 0..<rows where outputs[row].count >= end {
            for column in 0..<columns where inputs[column].count >= end {
                elements.append(coefficients[row * columns + column])
            }
        }
        return elements
    }
}
