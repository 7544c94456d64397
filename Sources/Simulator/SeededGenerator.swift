/// The only source of chance in a simulation: xoshiro256** (Blackman and Vigna), its state filled
/// by SplitMix64 from a seed.
///
/// Ranges and choices are drawn by methods of its own rather than by the standard library's, whose
/// way of drawing may change: a seed names the same run in each process and release.
public struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: (UInt64, UInt64, UInt64, UInt64)

    /// A generator whose numbers follow from `seed` alone.
    public init(seed: UInt64) {
        var mix = SplitMix(state: seed)
        state = (mix.next(), mix.next(), mix.next(), mix.next())
    }

    /// A generator of a part of the simulation, named by a number, so that one part drawing more
    /// often leaves the others as they were.
    public init(seed: UInt64, stream: UInt64) {
        var mix = SplitMix(state: stream)
        self.init(seed: seed ^ mix.next())
    }

    public mutating func next() -> UInt64 {
        let result = Self.rotate(state.1 &* 5, by: 7) &* 9
        let shifted = state.1 << 17
        state.2 ^= state.0
        state.3 ^= state.1
        state.1 ^= state.2
        state.0 ^= state.3
        state.2 ^= shifted
        state.3 = Self.rotate(state.3, by: 45)
        return result
    }

    private static func rotate(_ value: UInt64, by count: UInt64) -> UInt64 {
        (value << count) | (value >> (64 - count))
    }

    /// A whole number of `range`, each equally likely (but for a bias of at most 2⁻⁶⁴).
    public mutating func int(in range: ClosedRange<Int>) -> Int {
        let width = UInt64(range.upperBound - range.lowerBound) &+ 1
        precondition(width > 0, "a range to draw from is narrower than all of Int")
        return range.lowerBound + Int(next().multipliedFullWidth(by: width).high)
    }

    /// A duration of `range` in microseconds.
    public mutating func time(in range: ClosedRange<Microseconds>) -> Microseconds {
        Microseconds(int(in: Int(range.lowerBound)...Int(range.upperBound)))
    }

    /// True with the given probability (0 never, 1 always).
    public mutating func chance(_ probability: Double) -> Bool {
        guard probability > 0 else { return false }
        return Double(next() >> 11) * 0x1p-53 < probability
    }

    /// A number from 0 up to, not including, 1.
    public mutating func fraction() -> Double { Double(next() >> 11) * 0x1p-53 }

    /// One of the elements, each equally likely; nil of none.
    public mutating func element<Element>(of elements: [Element]) -> Element? {
        elements.isEmpty ? nil : elements[int(in: 0...(elements.count - 1))]
    }
}

/// SplitMix64 (Steele, Lea, Flood): spreads a seed over the state of a larger generator.
private struct SplitMix {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        return mixed(state)
    }
}

/// The finalizer of SplitMix64: each bit of the argument changes about half the bits of the result.
@inline(__always)
func mixed(_ value: UInt64) -> UInt64 {
    var value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
    return value ^ (value >> 31)
}
