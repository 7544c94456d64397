import CDigest

/// MD5 (RFC 1321): what S3 calls an object's ETag, and no protection against anyone.
///
/// The digest of "abc" is 900150983cd24fb0d6963f7d28e17f72. One message is hashed at some
/// 0.7 GB/s, since each step waits for the one before; several side by side go an order of
/// magnitude faster in total (`MD5+Lanes.swift`).
public struct MD5: Sendable {
    /// Bytes of a digest.
    public static let digestSize = 16
    /// Bytes of a block, the unit that the algorithm works in.
    public static let blockSize = 64

    /// The four words A, B, C and D.
    var state = SIMD4<UInt32>(0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476)
    /// Bytes taken after the last whole block: the first `tailCount` of it.
    var tail = SIMD64<UInt8>()
    /// How many bytes of `tail` there are, always less than a block.
    var tailCount = 0
    /// Bytes taken so far.
    public internal(set) var count: UInt64 = 0

    public init() {}

    /// The digest of `bytes`.
    public static func of(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        var hash = MD5()
        hash.update(bytes)
        return hash.finalize()
    }

    /// Takes more bytes, of any number.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        var rest = bytes
        if tailCount > 0 {
            rest = absorb(rest, upTo: Self.blockSize - tailCount)
            guard tailCount == Self.blockSize else { return }
            let block = tail
            withUnsafeBytes(of: block) { take(blocks: 1, at: $0.baseAddress!) }
            tailCount = 0
        }
        let blocks = rest.count / Self.blockSize
        if blocks > 0, let start = rest.baseAddress {
            take(blocks: blocks, at: start)
            count += UInt64(blocks * Self.blockSize)
            rest = UnsafeRawBufferPointer(rebasing: rest[(blocks * Self.blockSize)...])
        }
        _ = absorb(rest, upTo: rest.count)
    }

    /// The digest of what was taken so far, 16 bytes. More may be taken afterwards.
    public func finalize() -> [UInt8] {
        var copy = self
        let bits = count &* 8
        let padding = (tailCount < 56 ? 56 : 120) - tailCount
        withUnsafeTemporaryAllocation(byteCount: padding + 8, alignment: 8) { end in
            end.initializeMemory(as: UInt8.self, repeating: 0)
            end[0] = 0x80
            end.storeBytes(of: bits.littleEndian, toByteOffset: padding, as: UInt64.self)
            copy.update(UnsafeRawBufferPointer(end))
        }
        precondition(copy.tailCount == 0, "padding ends at the end of a block")
        let digest = copy.state
        return [UInt8](unsafeUninitializedCapacity: Self.digestSize) { bytes, initialized in
            for word in 0..<4 {
                let value = digest[word].littleEndian
                UnsafeMutableRawBufferPointer(bytes)
                    .storeBytes(of: value, toByteOffset: 4 * word, as: UInt32.self)
            }
            initialized = Self.digestSize
        }
    }

    /// Moves up to `most` of `bytes` to the tail; returns the others. The tail may then be a whole
    /// block, which the caller has to take.
    mutating func absorb(
        _ bytes: UnsafeRawBufferPointer, upTo most: Int
    ) -> UnsafeRawBufferPointer {
        let taken = min(most, bytes.count)
        precondition(taken + tailCount <= Self.blockSize, "the tail is at most a block")
        guard taken > 0 else { return bytes }
        let position = tailCount
        withUnsafeMutableBytes(of: &tail) { tail in
            UnsafeMutableRawBufferPointer(rebasing: tail[position...])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<taken]))
        }
        tailCount += taken
        count += UInt64(taken)
        return UnsafeRawBufferPointer(rebasing: bytes[taken...])
    }

    private mutating func take(blocks: Int, at start: UnsafeRawPointer) {
        withUnsafeMutableBytes(of: &state) { state in
            let words = state.baseAddress!.assumingMemoryBound(to: UInt32.self)
            var data: UnsafePointer<UInt8>? = start.assumingMemoryBound(to: UInt8.self)
            apus_md5_lanes(words, &data, 1, blocks)
        }
    }
}
