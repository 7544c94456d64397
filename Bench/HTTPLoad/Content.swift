/// The bytes of all objects: windows into one ring of pseudo-random bytes, so that any byte of any
/// object can be sent and checked without generating it again.
struct Content: Sendable {
    /// Not a multiple of a cell or stripe, so that a cell in the wrong place is seen.
    static let period = 16 << 20 | 64 << 10 | 4 << 10
    private let ring: [UInt64]

    init() {
        // SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
        var state: UInt64 = 1
        ring = (0..<Content.period / 8).map { _ in
            state &+= 0x9e37_79b9_7f4a_7c15
            var word = state
            word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
            word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
            return word ^ (word >> 31)
        }
    }

    /// Calls `body` with the bytes of object `seed` from `offset` on, as far as they are
    /// contiguous in the ring and at most `count`.
    func withBytes<R>(
        seed: Int, offset: Int, count: Int, _ body: (UnsafeRawBufferPointer) -> R
    ) -> R {
        let start = (seed * 40_961 + offset) % Content.period
        let end = min(start + count, Content.period)
        return ring.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[start..<end])) }
    }
}
