import Model
import Testing

@testable import ErasureCode

@Suite struct StripeGeometryTests {
    let replication: ErasureCoding
    let cell = 16_384

    init() throws { replication = try ErasureCoding("rs-3-2-16k") }

    @Test("an empty group has no stripes and empty replicas")
    func empty() {
        let geometry = StripeGeometry(replication, groupLength: 0)
        #expect(geometry.stripeCount == 0)
        #expect((1...5).map { geometry.replicaLength(index: $0) } == [0, 0, 0, 0, 0])
        #expect(geometry.cells(in: 0..<0).isEmpty)
    }

    @Test(
        "replica lengths follow Ozone's internal block length",
        arguments: [
            (1, [1, 0, 0, 1, 1]),
            (16_384, [16_384, 0, 0, 16_384, 16_384]),
            (16_385, [16_384, 1, 0, 16_384, 16_384]),
            (49_151, [16_384, 16_384, 16_383, 16_384, 16_384]),
            (49_152, [16_384, 16_384, 16_384, 16_384, 16_384]),
            (49_153, [16_385, 16_384, 16_384, 16_385, 16_385]),
            (49_152 + 20_000, [32_768, 20_000, 16_384, 32_768, 32_768]),
        ])
    func lengths(groupLength: Int, expected: [Int]) {
        let geometry = StripeGeometry(replication, groupLength: groupLength)
        #expect((1...5).map { geometry.replicaLength(index: $0) } == expected)
    }

    @Test("laying a group out by the geometry and reading any range gives its bytes")
    func model() {
        var noise = Noise(seed: 3)
        for length in [1, 16_384, 50_000, 98_304, 123_457] {
            let group = noise.bytes(length)
            let geometry = StripeGeometry(replication, groupLength: length)
            // Ozone's rule: cells go round the data replicas.
            var replicas = [[UInt8]](repeating: [], count: 3)
            for (number, start) in stride(from: 0, to: length, by: cell).enumerated() {
                replicas[number % 3] += group[start..<min(start + cell, length)]
            }
            #expect(replicas.map(\.count) == (1...3).map { geometry.replicaLength(index: $0) })
            for _ in 0..<50 {
                let start = Int.random(in: 0...length, using: &noise)
                let end = Int.random(in: start...length, using: &noise)
                var read: [UInt8] = []
                for part in geometry.cells(in: start..<end) {
                    #expect(part.range.upperBound <= cell && !part.range.isEmpty)
                    read += replicas[part.replicaIndex - 1][part.replicaRange]
                }
                #expect(read == Array(group[start..<end]))
            }
        }
    }

    @Test("unit-aligned ranges cover the part, begin at a unit and stay in the cell")
    func aligned() throws {
        let replication = try ErasureCoding("rs-3-2-64k")
        let geometry = StripeGeometry(replication, groupLength: 3 * 65_536 + 65_536 + 30_000)
        let part = geometry.cells(in: 4 * 65_536 + 29_000..<4 * 65_536 + 29_010)[0]
        #expect(part == .init(stripe: 1, cell: 1, range: 29_000..<29_010, replicaOffset: 94_536))
        let whole = geometry.unitAligned(part)
        // The cell is 30,000 bytes long: its last unit is short.
        #expect(whole == .init(stripe: 1, cell: 1, range: 28_672..<30_000, replicaOffset: 94_208))
        let nothing = geometry.cellRange(stripe: 1, cell: 2, 0..<65_536)
        #expect(nothing.range.isEmpty)
        #expect(geometry.unitAligned(nothing) == nothing)
    }

    @Test("the ranges of other cells for a decode are cut at their ends")
    func siblings() {
        let geometry = StripeGeometry(replication, groupLength: 49_152 + 16_384 + 5_000)
        let ranges = (0..<5).map { geometry.cellRange(stripe: 1, cell: $0, 4_000..<9_000) }
        #expect(ranges.map(\.range.count) == [5_000, 1_000, 0, 5_000, 5_000])
        #expect(ranges[4].replicaRange == 16_384 + 4_000..<16_384 + 9_000)
    }
}
