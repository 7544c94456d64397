import Checksum
import Model
import Testing

@testable import ErasureCode

@Suite struct KnownAnswers {
    /// Parity that is on disk must be the same for ever: pinned from the scalar reference.
    @Test(
        "parity of a fixed stripe never changes",
        arguments: [
            ("rs-3-2-16k", 40_000, [0x49EC_DBEF, 0x07DF_6AAE] as [UInt32]),
            ("rs-6-3-16k", 98_304, [0x3F11_3266, 0x7CB2_FAC5, 0xEE05_017C]),
            ("rs-10-4-16k", 163_840, [0xF1D0_EC80, 0xBE42_0470, 0x2CF4_7FB1, 0x096E_5648]),
            ("xor-2-1-16k", 20_000, [0x3B52_5A9B]),
        ])
    func pinned(name: String, length: Int, expected: [UInt32]) throws {
        let replication = try ErasureCoding(name)
        let data = stripe(replication, length: length, seed: 42)
        let reference = ScalarCodec(replication).encode(data)
        #expect(reference.map { CRC32C.of($0) } == expected)
        #expect(Codec(replication).encode(data).parity == reference)
    }

    @Test("the parity rows of rs-6-3 are the Cauchy rows that Ozone and Hadoop write")
    func matrix() throws {
        let codec = ScalarCodec(try ErasureCoding("rs-6-3-1024k"))
        let rows = (6..<9).map { row in (0..<6).map { codec.coefficient(row: row, column: $0) } }
        #expect(
            rows == [
                [0x7A, 0xBA, 0x47, 0xA7, 0x8E, 0xF4],
                [0xBA, 0x7A, 0xA7, 0x47, 0xF4, 0x8E],
                [0xAD, 0x9D, 0xDD, 0x98, 0x3D, 0xAA],
            ])
    }

    @Test("a unit vector in cell 0 shows the first column of the matrix")
    func unitVector() throws {
        let replication = try ErasureCoding("rs-3-2-16k")
        let result = Codec(replication).encode([[1], [], []])
        #expect(result.parity == [[0xF4], [0x47]])
    }

    @Test("the field's products and inverses are those of 0x11D")
    func field() {
        #expect(GaloisField.multiply(0x80, 2) == 0x1D)
        #expect(GaloisField.multiply(0xB6, 0x53) == 0xEE)
        for value in 1...255 {
            let a = UInt8(value)
            #expect(GaloisField.multiply(a, GaloisField.inverse(a)) == 1)
            #expect(GaloisField.multiply(a, 0) == 0)
        }
    }
}

@Suite struct Encoding {
    @Test(
        "encoding equals the scalar reference for every shape of the last stripe",
        arguments: ["rs-3-2-16k", "rs-6-3-16k", "rs-10-4-16k", "xor-2-1-16k", "rs-1-1-16k"])
    func shapes(name: String) throws {
        let replication = try ErasureCoding(name)
        let cell = replication.cellSize
        let lengths = [
            1, 31, 32, 33, 4096, cell - 1, cell, cell + 1, cell * replication.data - 1,
            cell * replication.data, cell / 2 + cell * (replication.data - 1),
        ]
        for length in lengths where length <= replication.stripeSize {
            let data = stripe(replication, length: length, seed: UInt64(length))
            let (parity, checksums) = Codec(replication).encode(data)
            #expect(parity == ScalarCodec(replication).encode(data), "\(name), \(length) bytes")
            #expect(
                checksums == (data + parity).map { $0.withUnsafeBytes { CRC32C.ofUnits($0) } })
        }
    }

    @Test("cells longer than a tile are encoded and checksummed whole")
    func tiles() throws {
        let replication = try ErasureCoding("rs-3-2-1024k")
        let data = stripe(replication, length: 2 * 1_048_576 + 70_001, seed: 9)
        let (parity, checksums) = Codec(replication).encode(data)
        #expect(parity == ScalarCodec(replication).encode(data))
        #expect(checksums == (data + parity).map { $0.withUnsafeBytes { CRC32C.ofUnits($0) } })
        #expect(checksums.map(\.count) == [256, 256, 18, 256, 256])
    }

    @Test("encode alone writes the same parity as encode with checksums")
    func plain() throws {
        let replication = try ErasureCoding("rs-6-3-64k")
        let data = stripe(replication, length: 200_000, seed: 10)
        let parity = (0..<3).map { _ in
            UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 64)
        }
        defer { for cell in parity { cell.deallocate() } }
        let codec = Codec(replication)
        withBuffers(data) { codec.encode(data: $0.compactMap { $0 }, parity: parity) }
        #expect(parity.map { Array($0) } == codec.encode(data).parity)
    }
}

@Suite struct Decoding {
    /// Tries every set of lost cells: up to p of them must come back, more must be refused.
    private func allLosses(of name: String, length: Int) throws {
        let replication = try ErasureCoding(name)
        let data = stripe(replication, length: length, seed: 77)
        for kernel in GaloisKernel.available {
            try allLosses(of: Codec(replication, kernel: kernel), data)
        }
    }

    private func allLosses(of codec: Codec, _ data: [[UInt8]]) throws {
        let replication = codec.coding
        let cells = data + codec.encode(data).parity
        #expect(Array(cells[data.count...]) == ScalarCodec(replication).encode(data))
        for pattern in 0..<(1 << replication.width) {
            let lost = cells.indices.filter { pattern >> $0 & 1 == 1 }
            let left = cells.indices.map { lost.contains($0) ? nil : cells[$0] }
            let wanted = lost.map { ($0, cells[$0].count) }
            if lost.count <= replication.parity {
                let rebuilt = try codec.decode(left, wanted: wanted)
                #expect(
                    rebuilt == lost.map { cells[$0] },
                    "\(replication) without \(lost), \(codec.kernel)")
            } else {
                let error = ErasureCodeError.tooManyLosses(
                    missing: lost, present: replication.width - lost.count,
                    needed: replication.data)
                #expect(throws: error) { try codec.decode(left, wanted: wanted) }
            }
        }
        #expect(codec.planCount <= Codec.Limits.plans)
    }

    @Test("rs-3-2 survives every loss of up to two cells and refuses all others")
    func small() throws {
        try allLosses(of: "rs-3-2-16k", length: 3 * 16_384)
        try allLosses(of: "rs-3-2-16k", length: 16_384 + 777)
    }

    @Test("rs-6-3 survives every loss of up to three cells and refuses all others")
    func medium() throws {
        try allLosses(of: "rs-6-3-16k", length: 6 * 16_384)
        try allLosses(of: "rs-6-3-16k", length: 3 * 16_384 + 100)
        try allLosses(of: "rs-6-3-16k", length: 50)
    }

    @Test("rs-10-4 survives every loss of up to four cells and refuses all others")
    func large() throws { try allLosses(of: "rs-10-4-16k", length: 16_384 + 4_097) }

    @Test("xor survives the loss of any one cell")
    func exclusiveOr() throws {
        try allLosses(of: "xor-2-1-16k", length: 20_000)
        try allLosses(of: "xor-5-1-16k", length: 80_000)
    }

    @Test("random codes up to 32 cells equal the scalar reference", arguments: 1...40)
    func random(seed: UInt64) throws {
        var noise = Noise(seed: seed)
        let width = Int.random(in: 2...32, using: &noise)
        let parity = Int.random(in: 1..<width, using: &noise)
        let replication = try ErasureCoding(
            codec: .rs, data: width - parity, parity: parity, cellSize: 16_384)
        let codec = Codec(replication)
        let data = stripe(
            replication, length: Int.random(in: 1...replication.stripeSize, using: &noise),
            seed: seed)
        let encoded = codec.encode(data).parity
        #expect(encoded == ScalarCodec(replication).encode(data), "seed \(seed), \(replication)")
        let cells = data + encoded
        for _ in 0..<4 {
            let count = Int.random(in: 1...parity, using: &noise)
            let lost = Array(cells.indices.shuffled(using: &noise).prefix(count)).sorted()
            let left = cells.indices.map { lost.contains($0) ? nil : cells[$0] }
            let rebuilt = try codec.decode(left, wanted: lost.map { ($0, cells[$0].count) })
            #expect(rebuilt == lost.map { cells[$0] }, "seed \(seed), \(replication), \(lost)")
            let longest = lost.map { cells[$0].count }.max() ?? 0
            let scalar = try ScalarCodec(replication).decode(left, wanted: lost, length: longest)
            #expect(zip(scalar, rebuilt).allSatisfy { Array($0.prefix($1.count)) == $1 })
        }
    }

    @Test("only what is wanted is rebuilt, in the order it was asked for")
    func wantedOnly() throws {
        let replication = try ErasureCoding("rs-6-3-16k")
        let codec = Codec(replication)
        let data = stripe(replication, length: replication.stripeSize, seed: 5)
        let cells = data + codec.encode(data).parity
        var left: [[UInt8]?] = cells
        left[0] = nil
        left[4] = nil
        left[8] = nil
        let rebuilt = try codec.decode(left, wanted: [(8, 16_384), (4, 100)])
        #expect(rebuilt == [cells[8], Array(cells[4].prefix(100))])
    }

    @Test("a byte range of a cell is rebuilt from the same range of the others")
    func range() throws {
        let replication = try ErasureCoding("rs-3-2-64k")
        let codec = Codec(replication)
        let data = stripe(replication, length: 2 * 65_536 + 20_000, seed: 6)
        let cells = data + codec.encode(data).parity
        // Cell 2 ends within the range.
        let range = 16_384..<49_152
        var left: [[UInt8]?] = cells.map { Array($0.prefix(range.upperBound).dropFirst(16_384)) }
        left[0] = nil
        let rebuilt = try codec.decode(left, wanted: [(0, range.count)])
        #expect(rebuilt == [Array(cells[0][range])])
    }

    @Test("the plans kept are bounded, and old ones are made again")
    func cache() throws {
        let replication = try ErasureCoding("rs-10-4-16k")
        let codec = Codec(replication)
        let data = stripe(replication, length: 600, seed: 8)
        let cells = data + codec.encode(data).parity
        for round in 0..<2 {
            for first in 0..<12 {
                for second in (first + 1)..<13 {
                    for third in (second + 1)..<14 {
                        var left: [[UInt8]?] = cells
                        for lost in [first, second, third] { left[lost] = nil }
                        let rebuilt = try codec.decode(left, wanted: [(first, cells[first].count)])
                        #expect(rebuilt == [cells[first]], "round \(round)")
                    }
                }
            }
        }
        #expect(codec.planCount == Codec.Limits.plans)
    }
}
