import CGalois
import CISAL

/// A matrix over GF(2^8) with the tables of its kernel: makes each output byte from the input
/// bytes at the same offset.
///
/// Inputs and outputs may differ in length. An input counts as zero past its end; an output is
/// written up to its own end. Immutable, and a class so that handing it on copies no tables.
final class LinearMap: Sendable {
    /// Number of outputs.
    let rows: Int
    /// Number of inputs.
    let columns: Int
    /// Row by row.
    let coefficients: [UInt8]
    let kernel: GaloisKernel
    /// ISA-L's tables of 32 bytes an element, or none with the other kernels.
    private let tables: [UInt8]
    /// The bit matrix of each element, or none with ISA-L.
    private let matrices: [UInt64]

    init(rows: Int, columns: Int, coefficients: [UInt8], kernel: GaloisKernel) {
        precondition(
            rows > 0 && columns > 0 && coefficients.count == rows * columns,
            "a matrix has rows × columns elements")
        precondition(kernel <= .best, "this processor does not have \(kernel)")
        self.rows = rows
        self.columns = columns
        self.coefficients = coefficients
        self.kernel = kernel
        tables =
            kernel == .isal ? Self.expand(rows: rows, columns: columns, coefficients) : []
        matrices = kernel == .isal ? [] : coefficients.map { apus_galois_matrix($0) }
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

    /// Writes the bytes of `range` of every output that reaches into it. Allocates nothing unless
    /// a buffer ends within the range or before it.
    func apply(
        _ inputs: [UnsafeRawBufferPointer], _ outputs: [UnsafeMutableRawBufferPointer],
        in range: Range<Int>
    ) {
        inputs.withUnsafeBufferPointer { inputs in
            outputs.withUnsafeBufferPointer { outputs in apply(inputs, outputs, in: range) }
        }
    }

    /// As the other `apply`.
    func apply(
        _ inputs: UnsafeBufferPointer<UnsafeRawBufferPointer>,
        _ outputs: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>, in range: Range<Int>
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

    private typealias Pointers = UnsafeMutableBufferPointer<UnsafeMutablePointer<UInt8>?>

    /// As `apply`, for a range that no buffer ends within.
    private func applySegment(
        _ inputs: UnsafeBufferPointer<UnsafeRawBufferPointer>,
        _ outputs: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>, _ range: Range<Int>
    ) {
        withUnsafeTemporaryAllocation(
            of: UnsafeMutablePointer<UInt8>?.self, capacity: columns + rows
        ) { pointers in
            var sourceCount = 0
            for input in inputs where input.count >= range.upperBound {
                // The kernels' headers lack `const` in places; inputs are only read.
                let start = UnsafeMutableRawPointer(mutating: input.baseAddress!)
                pointers.initializeElement(
                    at: sourceCount, to: start.assumingMemoryBound(to: UInt8.self))
                sourceCount += 1
            }
            var count = sourceCount
            for output in outputs where output.count >= range.upperBound {
                pointers.initializeElement(
                    at: count, to: output.baseAddress!.assumingMemoryBound(to: UInt8.self))
                count += 1
            }
            let sources = Pointers(rebasing: pointers[..<sourceCount])
            let targets = Pointers(rebasing: pointers[sourceCount..<count])
            if targets.isEmpty { return }
            if sources.isEmpty {
                for target in targets {
                    (target! + range.lowerBound).update(repeating: 0, count: range.count)
                }
            } else if sources.count == columns && targets.count == rows {
                run(sources, targets, range, tables, matrices)
            } else {
                let part = submatrix(inputs, outputs, at: range.upperBound)
                run(
                    sources, targets, range,
                    kernel == .isal
                        ? Self.expand(rows: targets.count, columns: sources.count, part) : [],
                    kernel == .isal ? [] : part.map { apus_galois_matrix($0) })
            }
        }
    }

    /// Runs the kernel; `tables` or `matrices` has the elements from `sources` to `targets`.
    private func run(
        _ sources: Pointers, _ targets: Pointers, _ range: Range<Int>, _ tables: [UInt8],
        _ matrices: [UInt64]
    ) {
        guard kernel == .isal else {
            sources.withMemoryRebound(to: UnsafePointer<UInt8>?.self) { sources in
                apus_galois_apply(
                    kernel.level, targets.count, sources.count, matrices, sources.baseAddress,
                    targets.baseAddress, range.lowerBound, range.upperBound)
            }
            return
        }
        for index in sources.indices { sources[index]! += range.lowerBound }
        for index in targets.indices { targets[index]! += range.lowerBound }
        tables.withUnsafeBufferPointer { tables in
            ec_encode_data(
                Int32(range.count), Int32(sources.count), Int32(targets.count),
                UnsafeMutablePointer(mutating: tables.baseAddress),
                sources.baseAddress, targets.baseAddress)
        }
    }

    /// The elements of the inputs and outputs that reach `end`.
    private func submatrix(
        _ inputs: UnsafeBufferPointer<UnsafeRawBufferPointer>,
        _ outputs: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>, at end: Int
    ) -> [UInt8] {
        var elements: [UInt8] = []
        elements.reserveCapacity(coefficients.count)
        for row in 0..<rows where outputs[row].count >= end {
            for column in 0..<columns where inputs[column].count >= end {
                elements.append(coefficients[row * columns + column])
            }
        }
        return elements
    }
}
