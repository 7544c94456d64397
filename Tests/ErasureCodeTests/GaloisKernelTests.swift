import CGalois
import CISAL
import Model
import Testing

@testable import ErasureCode

@Suite struct GaloisKernels {
    @Test("the bit matrix of every coefficient multiplies as the field does")
    func matrices() {
        for coefficient in 0...255 {
            let matrix = apus_galois_matrix(UInt8(coefficient))
            for value in 0...255 {
                // Output bit i is the parity of the input and byte 7 - i of the matrix.
                var product: UInt8 = 0
                for bit in 0..<8 {
                    let row = UInt8(truncatingIfNeeded: matrix >> UInt64(8 * (7 - bit)))
                    product |= UInt8((row & UInt8(value)).nonzeroBitCount & 1) << UInt8(bit)
                }
                let expected = GaloisField.multiply(UInt8(coefficient), UInt8(value))
                if product != expected {
                    Issue.record("\(coefficient) × \(value) is \(expected), not \(product)")
                }
            }
        }
    }

    /// Any matrix, not only those of codes, so that more rows than a code has are met too.
    @Test(
        "every kernel equals ISA-L and the field's own products for any shape, length and offset",
        arguments: 1...120)
    func shapes(seed: UInt64) {
        var noise = Noise(seed: seed)
        let rows = Int.random(in: 1...14, using: &noise)
        let columns = Int.random(in: 1...31, using: &noise)
        let length = Int.random(in: 1...1200, using: &noise)
        let start = Int.random(in: 0..<length, using: &noise)
        let coefficients = noise.bytes(rows * columns)
        let inputs = (0..<columns).map { _ in noise.bytes(length) }
        var expected = [[UInt8]](repeating: [UInt8](repeating: 0, count: length), count: rows)
        for row in 0..<rows {
            for column in 0..<columns {
                let factor = coefficients[row * columns + column]
                for index in start..<length {
                    expected[row][index] ^= GaloisField.multiply(factor, inputs[column][index])
                }
            }
        }
        for kernel in GaloisKernel.available {
            let map = LinearMap(
                rows: rows, columns: columns, coefficients: coefficients, kernel: kernel)
            // A guard behind each output shows a write past its end.
            let outputs = (0..<rows).map { _ in
                let bytes = UnsafeMutableRawBufferPointer.allocate(
                    byteCount: length + 64, alignment: 1)
                bytes.initializeMemory(as: UInt8.self, repeating: 0)
                return bytes
            }
            defer { for output in outputs { output.deallocate() } }
            let cut = outputs.map { UnsafeMutableRawBufferPointer(rebasing: $0[..<length]) }
            withBuffers(inputs) { map.apply($0.compactMap { $0 }, cut, in: start..<length) }
            for row in 0..<rows {
                let guarded = expected[row] + [UInt8](repeating: 0, count: 64)
                #expect(Array(outputs[row]) == guarded, "seed \(seed), \(kernel), row \(row)")
            }
        }
    }

    @Test("a code's parity is the same by every kernel, cells of many tiles included")
    func wholeCells() throws {
        for name in ["rs-3-2-1024k", "rs-6-3-256k", "rs-10-4-256k"] {
            let replication = try ErasureCoding(name)
            let data = stripe(replication, length: replication.stripeSize - 77_777, seed: 3)
            let expected = Codec(replication, kernel: .isal).encode(data).parity
            for kernel in GaloisKernel.available {
                #expect(Codec(replication, kernel: kernel).encode(data).parity == expected)
            }
        }
    }
}
