import CDigest
import Testing

@testable import Checksum

/// MD5 straight from the text of RFC 1321, a step at a time, to hold the fast one against.
private func referenceMD5(_ message: [UInt8]) -> [UInt8] {
    let shifts: [[UInt32]] = [
        [7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21],
    ]
    var bytes = message + [0x80]
    while bytes.count % 64 != 56 { bytes.append(0) }
    let bits = message.count * 8
    for byte in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: bits >> (8 * byte))) }
    var state: [UInt32] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476]
    for start in stride(from: 0, to: bytes.count, by: 64) {
        let words = (0..<16).map { word in
            (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[start + 4 * word + $1]) << (8 * $1) }
        }
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        for step in 0..<64 {
            let (mixed, index): (UInt32, Int) =
                switch step / 16 {
                case 0: ((b & c) | (~b & d), step)
                case 1: ((d & b) | (~d & c), (5 * step + 1) % 16)
                case 2: (b ^ c ^ d, (3 * step + 5) % 16)
                default: (c ^ (b | ~d), 7 * step % 16)
                }
            let sum = a &+ mixed &+ words[index] &+ sines[step]
            let shift = shifts[step / 16][step % 4]
            (a, d, c, b) = (d, c, b, b &+ (sum << shift | sum >> (32 - shift)))
        }
        state[0] &+= a
        state[1] &+= b
        state[2] &+= c
        state[3] &+= d
    }
    return state.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } }
}

/// floor(2^32 × |sin(i + 1)|), by the series of the sine.
private let sines: [UInt32] = (0..<64).map { step in
    var angle = Double(step + 1)
    while angle > Double.pi { angle -= 2 * Double.pi }
    var term = angle
    var sum = angle
    for n in 1..<30 {
        term *= -angle * angle / Double(2 * n * (2 * n + 1))
        sum += term
    }
    return UInt32(abs(sum) * 4_294_967_296)
}

private func hex(_ bytes: [UInt8]) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

@Suite struct MD5Digests {
    @Test(
        "the digests of RFC 1321's test suite",
        arguments: [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("a", "0cc175b9c0f1b6a831c399e269772661"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
                "d174ab98d277d9f5a5611c2c9f419d9f"
            ),
            (
                "123456789012345678901234567890123456789012345678901234567890"
                    + "12345678901234567890", "57edf4a22be3c955ac49da2e2107b67a"
            ),
        ])
    func rfc(text: String, digest: String) {
        let bytes = Array(text.utf8)
        #expect(hex(bytes.withUnsafeBytes { MD5.of($0) }) == digest)
        #expect(hex(referenceMD5(bytes)) == digest)
    }

    /// By OpenSSL: the bytes i × 131 + 7, modulo 256, for i from 0.
    @Test(
        "digests that another implementation computed",
        arguments: [
            (55, "852e13533f66e414bbbbb3348de4f81f"),
            (56, "98e8cb3457434649644b5fe9f4e5e4fa"),
            (63, "c9803ddca3b148d91d5f214be64197d4"),
            (64, "bc00c8534af1e5aef0ede584d8ad5bc3"),
            (65, "4e114d3e0baf5ace365e0552a3273291"),
            (119, "e0c0cb3cbc027ba4d5a6c983754f2dc1"),
            (120, "3d7a96a57e721a4e2c2cbe55937e10e2"),
            (1000, "0b8ae90ded6089334e353eb2669ab5e6"),
            (65537, "c86dd3c51b98fec34b50253fd260235a"),
        ])
    func others(count: Int, digest: String) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 131 + 7) }
        #expect(hex(bytes.withUnsafeBytes { MD5.of($0) }) == digest)
    }

    @Test("every length to 300 equals the reference, at changing alignments")
    func lengths() {
        for length in 0...300 {
            let bytes = noise(length + length % 7, seed: UInt64(length))
            let message = Array(bytes[(length % 7)...])
            let digest = bytes.withUnsafeBytes {
                MD5.of(UnsafeRawBufferPointer(rebasing: $0[(length % 7)...]))
            }
            #expect(digest == referenceMD5(message), "\(length) bytes")
        }
    }

    @Test("a message in pieces has the digest of the whole", arguments: 1...30)
    func pieces(seed: UInt64) {
        var chance = Chance(seed: seed)
        let bytes = noise(Int.random(in: 0...5000, using: &chance), seed: seed)
        var hash = MD5()
        bytes.withUnsafeBytes { bytes in
            var start = 0
            while start < bytes.count {
                let end = min(bytes.count, start + Int.random(in: 0...300, using: &chance))
                hash.update(UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
                start = end
            }
        }
        #expect(hash.count == bytes.count)
        #expect(hash.finalize() == referenceMD5(bytes), "seed \(seed)")
    }
}

@Suite struct MD5Lanes {
    /// Hashes random messages in random pieces, as a service for many uploads would, and checks
    /// each against the reference.
    @Test("messages side by side have the digests that each has alone", arguments: 1...40)
    func sideBySide(seed: UInt64) {
        var chance = Chance(seed: seed)
        let lanes = Int.random(in: 1...40, using: &chance)
        let messages = (0..<lanes).map { lane in
            noise(Int.random(in: 0...9000, using: &chance), seed: seed << 8 + UInt64(lane))
        }
        let memory = messages.map { message in
            let copy = UnsafeMutableRawBufferPointer.allocate(
                byteCount: max(message.count, 1), alignment: 1)
            copy.copyBytes(from: message)
            return UnsafeRawBufferPointer(rebasing: copy[..<message.count])
        }
        defer { for bytes in memory { bytes.deallocate() } }
        var given = [Int](repeating: 0, count: lanes)
        var jobs = (0..<lanes).map { _ in
            MD5.Job(bytes: UnsafeRawBufferPointer(start: nil, count: 0))
        }
        while true {
            for lane in 0..<lanes where jobs[lane].bytes.isEmpty {
                let rest = messages[lane].count - given[lane]
                let count = min(rest, Int.random(in: 0...1500, using: &chance))
                jobs[lane].bytes = UnsafeRawBufferPointer(
                    rebasing: memory[lane][given[lane]..<given[lane] + count])
                given[lane] += count
            }
            let before = jobs.map { $0.bytes.count }
            let most = Bool.random(using: &chance) ? Int.max : 100
            let taken = MD5.advance(&jobs, most: most)
            #expect(taken == zip(before, jobs).reduce(0) { $0 + $1.0 - $1.1.bytes.count })
            if before.contains(where: { $0 > 0 }) {
                #expect(taken > 0)
            } else if given == messages.map(\.count) {
                break
            }
        }
        for lane in 0..<lanes {
            #expect(
                jobs[lane].hash.finalize() == referenceMD5(messages[lane]),
                "seed \(seed), lane \(lane) of \(lanes)")
        }
    }

    @Test("the kernels of all widths agree, for any number of messages", arguments: 1...16)
    func kernels(count: Int) {
        for blocks in [0, 1, 2, 5] {
            let bytes = noise(count * 64 * 5 + count, seed: UInt64(count))
            let words = noise(16 * count, seed: UInt64(count) + 99).map {
                UInt32($0) &* 0x0101_F0F1
            }
            var wide = Array(words[..<(4 * count)])
            var narrow = wide
            var scalar = wide
            bytes.withUnsafeBytes { bytes in
                let data = (0..<count).map { lane in
                    Optional((bytes.baseAddress! + lane * 321).assumingMemoryBound(to: UInt8.self))
                }
                apus_md5_lanes(&wide, data, count, blocks)
                apus_md5_lanes_avx2(&narrow, data, count, blocks)
                apus_md5_lanes_scalar(&scalar, data, count, blocks)
            }
            #expect(wide == scalar, "\(count) messages, \(blocks) blocks")
            #expect(narrow == scalar, "\(count) messages, \(blocks) blocks, AVX2")
        }
    }
}

/// A small generator, so that a failing case can be named by its seed.
private struct Chance: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state &* 0x2545_F491_4F6C_DD1D
    }
}
