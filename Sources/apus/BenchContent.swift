/// The bytes of a key: each 8 bytes are a function of the key's name and of where they lie, so any
/// range can be made and checked without what comes before it.
struct BenchContent: Sendable {
    private let seed: UInt64

    /// The content of the key `name`: FNV-1a of its bytes is the seed.
    init(name: some Sequence<UInt8>) {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        seed = hash | 1
    }

    /// The 8 bytes at `index` × 8, little endian.
    @inline(__always)
    private func word(_ index: Int) -> UInt64 {
        let mixed = (UInt64(truncatingIfNeeded: index) &+ seed) &* 0x9e37_79b9_7f4a_7c15
        return (mixed ^ (mixed >> 29)).littleEndian
    }

    private func byte(at offset: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: UInt64(littleEndian: word(offset / 8)) >> (offset % 8 * 8))
    }

    /// Fills `bytes` with the key's bytes from `offset` on.
    func fill(_ bytes: UnsafeMutableRawBufferPointer, from offset: Int) {
        precondition(offset >= 0, "a key begins at 0")
        var index = 0
        while index < bytes.count, (offset + index) % 8 != 0 {
            bytes[index] = byte(at: offset + index)
            index += 1
        }
        while index + 8 <= bytes.count {
            bytes.storeBytes(
                of: word((offset + index) / 8), toByteOffset: index, as: UInt64.self)
            index += 8
        }
        while index < bytes.count {
            bytes[index] = byte(at: offset + index)
            index += 1
        }
    }

    /// Where `bytes` first differ from the key's bytes from `offset` on, as an offset in the key.
    func mismatch(_ bytes: UnsafeRawBufferPointer, from offset: Int) -> Int? {
        precondition(offset >= 0, "a key begins at 0")
        var index = 0
        while index < bytes.count, (offset + index) % 8 != 0 {
            guard bytes[index] == byte(at: offset + index) else { return offset + index }
            index += 1
        }
        while index + 8 <= bytes.count {
            let found = bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            // The byte within the word is found by the loop below.
            guard found == word((offset + index) / 8) else { break }
            index += 8
        }
        while index < bytes.count {
            guard bytes[index] == byte(at: offset + index) else { return offset + index }
            index += 1
        }
        return nil
    }
}
