/// The field GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11D), by logarithms.
///
/// Own tables, not ISA-L's: the scalar reference must not share its arithmetic with what it
/// checks.
public enum GaloisField {
    /// Powers of the generator 2, twice over so that two logarithms can be added without a
    /// reduction.
    private static let powers: [UInt8] = {
        var powers = [UInt8](repeating: 0, count: 510)
        var value = 1
        for exponent in 0..<255 {
            powers[exponent] = UInt8(value)
            powers[exponent + 255] = UInt8(value)
            value <<= 1
            if value > 0xFF { value ^= 0x11D }
        }
        return powers
    }()

    private static let logarithms: [Int] = {
        var logarithms = [Int](repeating: 0, count: 256)
        for exponent in 0..<255 { logarithms[Int(powers[exponent])] = exponent }
        return logarithms
    }()

    /// The product of `a` and `b`. (The sum is their exclusive or.)
    public static func multiply(_ a: UInt8, _ b: UInt8) -> UInt8 {
        guard a != 0, b != 0 else { return 0 }
        return powers[logarithms[Int(a)] + logarithms[Int(b)]]
    }

    /// 1 / `a`. Precondition: `a` is not 0.
    public static func inverse(_ a: UInt8) -> UInt8 {
        precondition(a != 0, "0 has no inverse")
        return powers[255 - logarithms[Int(a)]]
    }
}
