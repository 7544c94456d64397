import ArgumentParser
import Foundation

/// Bytes written as `4096`, `64k`, `1m`, `2g` or `512KiB`: powers of two.
enum ByteText {
    /// The number of bytes; nil if it is no such text, negative, or over 2^50.
    static func parse(_ text: some StringProtocol) -> Int? {
        var letters = text.lowercased()[...]
        for suffix in ["ib", "b"] where letters.hasSuffix(suffix) {
            letters = letters.dropLast(suffix.count)
            break
        }
        let shifts: [Character: Int] = ["k": 10, "m": 20, "g": 30, "t": 40]
        var shift = 0
        if let last = letters.last, let found = shifts[last] {
            shift = found
            letters = letters.dropLast()
        }
        guard let number = Double(letters), number >= 0, number.isFinite else { return nil }
        let bytes = number * Double(1 << shift)
        return bytes <= Double(1 << 50) ? Int(bytes) : nil
    }
}

/// How large objects are: one size, a range in which the logarithm of the size is uniform, or a
/// histogram from a file.
struct SizeDistribution: ExpressibleByArgument, Sendable, CustomStringConvertible {
    /// A range of sizes and how often it comes, cumulated over the ranges before it.
    private struct Class: Sendable {
        var sizes: ClosedRange<Int>
        var upTo: Double
    }
    private let classes: [Class]
    let description: String
    /// The largest size that can come.
    var largest: Int { classes.map(\.sizes.upperBound).max() ?? 0 }

    /// `4k`, `64k-64m`, or `@FILE` with lines `SIZE-OR-RANGE WEIGHT`; `#` begins a comment.
    init?(argument: String) {
        description = argument
        if argument.hasPrefix("@") {
            guard
                let text = try? String(
                    contentsOfFile: String(argument.dropFirst()), encoding: .utf8),
                let classes = Self.histogram(text)
            else { return nil }
            self.classes = classes
        } else {
            guard let sizes = Self.range(argument) else { return nil }
            classes = [Class(sizes: sizes, upTo: 1)]
        }
    }

    private static func range(_ text: some StringProtocol) -> ClosedRange<Int>? {
        let ends = text.split(separator: "-", omittingEmptySubsequences: false)
            .map(ByteText.parse)
        guard ends.count <= 2, let low = ends.first ?? nil, let high = ends.last ?? nil,
            low <= high
        else { return nil }
        return low...high
    }

    private static func histogram(_ text: String) -> [Class]? {
        var classes: [Class] = []
        var total = 0.0
        for line in text.split(separator: "\n") {
            let words = line.prefix { $0 != "#" }.split { $0 == " " || $0 == "\t" }
            if words.isEmpty { continue }
            guard words.count == 2, let sizes = range(words[0]), let weight = Double(words[1]),
                weight >= 0, weight.isFinite
            else { return nil }
            total += weight
            classes.append(Class(sizes: sizes, upTo: total))
        }
        guard total > 0 else { return nil }
        return classes.map { Class(sizes: $0.sizes, upTo: $0.upTo / total) }
    }

    /// The size of object number `index`: always the same for the same index.
    func size(of index: Int) -> Int {
        var random = BenchRandom(seed: UInt64(truncatingIfNeeded: index) ^ 0x5151)
        let pick = random.unit()
        guard let found = classes.first(where: { pick < $0.upTo }) ?? classes.last else {
            preconditionFailure("a distribution has a class")
        }
        let low = Double(max(found.sizes.lowerBound, 1))
        let high = Double(max(found.sizes.upperBound, 1))
        guard found.sizes.count > 1 else { return found.sizes.lowerBound }
        return min(found.sizes.upperBound, Int(low * pow(high / low, random.unit())))
    }
}

/// A time written as `30`, `30s`, `5m` or `1h`.
struct BenchTime: ExpressibleByArgument, Sendable {
    let seconds: Double

    init?(argument: String) {
        let units: [Character: Double] = ["s": 1, "m": 60, "h": 3600]
        let unit = argument.last.flatMap { units[$0] }
        guard let number = Double(unit == nil ? argument[...] : argument.dropLast()),
            number > 0, number < 1e6
        else { return nil }
        seconds = number * (unit ?? 1)
    }
}

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
struct BenchRandom: RandomNumberGenerator, Sendable {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
        return word ^ (word >> 31)
    }

    /// Uniform in 0..<1.
    mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }
}
