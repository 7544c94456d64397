import Testing

@testable import Checksum

@Suite struct CRC32CKernels {
    /// Lengths around every bound of the kernels: words, runs of 256 bytes, blocks of 4 KiB.
    private static let lengths =
        Array(0...80) + [127, 128, 129, 255, 256, 257, 511, 512, 513, 767, 768, 1000, 4096, 5000]
        + [
            4095, 4097, 4352, 8192, 12_289, 16_383, 16_384, 16_385, 16_640, 20_000, 32_767, 32_768,
            33_333, 49_153,
        ]

    @Test("every kernel equals the scalar reference at changing alignments and starts")
    func kernels() {
        for (number, length) in Self.lengths.enumerated() {
            let shift = number % 67
            let bytes = noise(length + shift, seed: UInt64(length))
            let start = UInt32(truncatingIfNeeded: number &* 0x9E37_79B9)
            bytes.withUnsafeBytes { all in
                let bytes = UnsafeRawBufferPointer(rebasing: all[shift...])
                let expected = CRC32C.reference.update(start, bytes)
                #expect(CRC32C.update(start, bytes) == expected, "\(length) bytes")
                #expect(CRC32C.updateByISAL(start, bytes) == expected, "\(length) bytes, ISA-L")
                #expect(CRC32C.ofCached(bytes) == CRC32C.reference.of(bytes), "\(length) bytes")
            }
        }
    }

    @Test(
        "a copy has the bytes and the checksum, and nothing is written beside it",
        arguments: ["common stores", "streaming stores", "ISA-L"])
    func copies(way: String) {
        for (number, length) in Self.lengths.enumerated() {
            let shift = number * 7 % 65
            let bytes = noise(length, seed: UInt64(length) + 1)
            let target = UnsafeMutableRawBufferPointer.allocate(
                byteCount: length + 256, alignment: 64)
            defer { target.deallocate() }
            target.initializeMemory(as: UInt8.self, repeating: 0xA5)
            bytes.withUnsafeBytes { bytes in
                let part = UnsafeMutableRawBufferPointer(rebasing: target[shift..<shift + length])
                let crc =
                    way == "ISA-L"
                    ? CRC32C.copyByISAL(bytes, to: part, after: 77)
                    : CRC32C.copy(
                        bytes, to: part, after: 77, streaming: way == "streaming stores")
                #expect(crc == CRC32C.reference.update(77, bytes), "\(length) bytes")
            }
            let expected =
                [UInt8](repeating: 0xA5, count: shift) + bytes
                + [UInt8](repeating: 0xA5, count: 256 - shift)
            #expect(Array(target) == expected, "\(length) bytes at \(shift)")
        }
    }

    @Test("checksums of units taken in pieces are those of the whole", arguments: 1...20)
    func units(seed: UInt64) {
        let bytes = noise(50_000 + Int(seed) * 997, seed: seed)
        var copied = UnitChecksums(expecting: bytes.count)
        var appended = UnitChecksums(unit: 1000)
        var lengths = noise(400, seed: seed + 5).map { Int($0) * Int(seed) }
        let target = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 64)
        defer { target.deallocate() }
        bytes.withUnsafeBytes { bytes in
            var start = 0
            while start < bytes.count {
                let end = min(bytes.count, start + (lengths.popLast() ?? bytes.count))
                let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
                copied.copy(
                    piece, to: UnsafeMutableRawBufferPointer(rebasing: target[start..<end]),
                    streaming: seed % 2 == 0)
                appended.append(piece)
                start = end
                #expect(copied.count == end)
                #expect(
                    copied.sums == CRC32C.ofUnits(UnsafeRawBufferPointer(rebasing: bytes[..<end])))
            }
            #expect(appended.sums == CRC32C.ofUnits(bytes, unit: 1000))
        }
        #expect(Array(target) == bytes)
    }
}
