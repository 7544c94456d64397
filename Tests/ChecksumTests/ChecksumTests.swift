import Testing

@testable import Checksum

/// Bytes that differ from test to test by `seed` only.
func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var state = seed &+ 0x9E37_79B9_7F4A_7C15
    return (0..<count).map { _ in
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return UInt8(truncatingIfNeeded: state >> 24)
    }
}

@Suite struct KnownAnswers {
    let digits = Array("123456789".utf8)

    @Test("the check values of the three CRCs are those of the catalogue")
    func checkValues() {
        digits.withUnsafeBytes { bytes in
            #expect(CRC32C.of(bytes) == 0xE306_9283)
            #expect(CRC32.of(bytes) == 0xCBF4_3926)
            #expect(CRC64NVME.of(bytes) == 0xAE8B_1486_0A79_9888)
            #expect(CRC32C.reference.of(bytes) == 0xE306_9283)
            #expect(CRC32.reference.of(bytes) == 0xCBF4_3926)
            #expect(CRC64NVME.reference.of(bytes) == 0xAE8B_1486_0A79_9888)
        }
    }

    @Test("CRC32C of the iSCSI test patterns is that of RFC 3720, appendix B.4")
    func iSCSI() {
        #expect(CRC32C.of([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
        #expect(CRC32C.of([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
        #expect(CRC32C.of([UInt8](0..<32)) == 0x46DD_794E)
        #expect(CRC32C.of([UInt8]((0..<32).reversed())) == 0x113F_DB5C)
    }

    @Test("CRC64NVME of 4 KiB of zeros and of ones is that of the NVMe specification")
    func nvme() {
        [UInt8](repeating: 0, count: 4096).withUnsafeBytes {
            #expect(CRC64NVME.of($0) == 0x6482_D367_EB22_B64E)
        }
        [UInt8](repeating: 0xFF, count: 4096).withUnsafeBytes {
            #expect(CRC64NVME.of($0) == 0xC0DD_BA73_02EC_A3AC)
        }
    }

    @Test("the checksum of nothing is zero")
    func empty() {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        #expect(CRC32C.of(nothing) == 0)
        #expect(CRC32.of(nothing) == 0)
        #expect(CRC64NVME.of(nothing) == 0)
        #expect(CRC32C.update(7, nothing) == 7)
        #expect(CRC32.update(7, nothing) == 7)
        #expect(CRC64NVME.update(7, nothing) == 7)
    }
}

@Suite struct AgainstTheReference {
    @Test("every length to 700 at every alignment equals the bitwise reference")
    func lengths() {
        let bytes = noise(760, seed: 1)
        bytes.withUnsafeBytes { all in
            for length in 0...700 {
                let part = UnsafeRawBufferPointer(rebasing: all[(length % 37)...].prefix(length))
                #expect(CRC32C.of(part) == CRC32C.reference.of(part), "length \(length)")
                #expect(CRC32.of(part) == CRC32.reference.of(part), "length \(length)")
                let expected = CRC64NVME.reference.of(part)
                #expect(CRC64NVME.of(part) == expected, "length \(length)")
                #expect(CRC64NVME.updateByTables(0, part) == expected, "length \(length)")
            }
        }
    }

    @Test("a large buffer equals the reference")
    func large() {
        noise(300_001, seed: 2).withUnsafeBytes { bytes in
            #expect(CRC32C.of(bytes) == CRC32C.reference.of(bytes))
            #expect(CRC32.of(bytes) == CRC32.reference.of(bytes))
            #expect(CRC64NVME.of(bytes) == CRC64NVME.reference.of(bytes))
        }
    }

    @Test(
        "taking bytes in pieces gives the checksum of the whole",
        arguments: [1, 15, 16, 255, 256, 257, 4096])
    func streaming(piece: Int) {
        noise(20_011, seed: 3).withUnsafeBytes { bytes in
            var crc32c = CRC32C()
            var crc32 = CRC32()
            var crc64 = CRC64NVME()
            for start in stride(from: 0, to: bytes.count, by: piece) {
                let part = UnsafeRawBufferPointer(
                    rebasing: bytes[start..<min(start + piece, bytes.count)])
                crc32c.update(part)
                crc32.update(part)
                crc64.update(part)
            }
            #expect(crc32c.value == CRC32C.of(bytes))
            #expect(crc32.value == CRC32.of(bytes))
            #expect(crc64.value == CRC64NVME.of(bytes))
        }
    }

    @Test("combining the checksums of two parts gives that of the whole, for every cut")
    func combine() {
        noise(2000, seed: 4).withUnsafeBytes { bytes in
            for cut in stride(from: 0, through: bytes.count, by: 61) + [bytes.count] {
                let a = UnsafeRawBufferPointer(rebasing: bytes[..<cut])
                let b = UnsafeRawBufferPointer(rebasing: bytes[cut...])
                #expect(
                    CRC32C.combine(CRC32C.of(a), CRC32C.of(b), lengthB: b.count)
                        == CRC32C.of(bytes))
                #expect(
                    CRC32.combine(CRC32.of(a), CRC32.of(b), lengthB: b.count) == CRC32.of(bytes))
                #expect(
                    CRC64NVME.combine(CRC64NVME.of(a), CRC64NVME.of(b), lengthB: b.count)
                        == CRC64NVME.of(bytes))
            }
        }
    }

    @Test("combining is associative for parts of five gibibytes")
    func combineLong() {
        let length = 5 << 30
        let left = CRC64NVME.combine(
            CRC64NVME.combine(1, 2, lengthB: length), 3, lengthB: length + 1)
        let right = CRC64NVME.combine(
            1, CRC64NVME.combine(2, 3, lengthB: length + 1), lengthB: 2 * length + 1)
        #expect(left == right)
    }
}

@Suite struct Units {
    @Test("each unit has its own checksum and the last may be short")
    func units() {
        let bytes = noise(3 * 4096 + 5, seed: 5)
        let sums = bytes.withUnsafeBytes { CRC32C.ofUnits($0) }
        #expect(sums.count == 4)
        #expect(sums[1] == CRC32C.of(Array(bytes[4096..<8192])))
        #expect(sums[3] == CRC32C.of(Array(bytes[12288...])))
        #expect(CRC32C.ofUnits(UnsafeRawBufferPointer(start: nil, count: 0)).isEmpty)
    }

    @Test("verifying names the unit that was damaged", arguments: [0, 1, 2, 3])
    func damaged(unit: Int) throws {
        var bytes = noise(3 * 4096 + 5, seed: 6)
        let sums = bytes.withUnsafeBytes { CRC32C.ofUnits($0) }
        try bytes.withUnsafeBytes { try CRC32C.verifyUnits($0, against: sums) }
        bytes[unit * 4096 + 3] ^= 0x10
        let found = bytes.withUnsafeBytes { CRC32C.ofUnits($0)[unit] }
        #expect(throws: UnitMismatch.unit(index: unit, expected: sums[unit], found: found)) {
            try bytes.withUnsafeBytes { try CRC32C.verifyUnits($0, against: sums) }
        }
    }

    @Test("a wrong number of checksums is refused, not read past")
    func count() {
        let bytes = noise(4097, seed: 7)
        #expect(throws: UnitMismatch.count(expected: 2, found: 1)) {
            try bytes.withUnsafeBytes { try CRC32C.verifyUnits($0, against: [0]) }
        }
    }
}
