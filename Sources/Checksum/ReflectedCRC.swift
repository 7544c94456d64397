/// A cyclic redundancy check whose bits are taken least significant first, with the register
/// preset to ones and inverted at the end: CRC-32, CRC-32C and CRC-64/NVME are all of this form.
///
/// This is the scalar reference: one bit at a time, written to be read against the definition.
/// The fast implementations are tested against it. It also holds the polynomial arithmetic that
/// `combine` needs, which is not a hot path.
public struct ReflectedCRC<Word: FixedWidthInteger & UnsignedInteger & Sendable>: Sendable {
    /// The generator polynomial without its leading term, bits reversed.
    public let polynomial: Word

    public init(polynomial: Word) { self.polynomial = polynomial }

    /// The checksum of `bytes`, in O(8n) steps.
    public func of(_ bytes: UnsafeRawBufferPointer) -> Word { update(0, bytes) }

    /// The checksum of what `crc` covers followed by `bytes`. The checksum of nothing is 0.
    public func update(_ crc: Word, _ bytes: UnsafeRawBufferPointer) -> Word {
        var register = ~crc
        for byte in bytes {
            register ^= Word(byte)
            for _ in 0..<8 { register = timesX(register) }
        }
        return ~register
    }

    /// The checksum of A followed by B, from the checksums of both and the length of B in bytes.
    /// O(log lengthB) multiplications of polynomials. Precondition: `lengthB` is not negative.
    public func combine(_ crcA: Word, _ crcB: Word, lengthB: Int) -> Word {
        precondition(lengthB >= 0, "a length in bytes cannot be negative")
        // Presets and inversions of the two cancel, so only the shift by B's bits remains.
        return multiply(crcA, power(bytes: lengthB)) ^ crcB
    }

    /// `value` times x, modulo the polynomial.
    private func timesX(_ value: Word) -> Word {
        value & 1 == 0 ? value >> 1 : (value >> 1) ^ polynomial
    }

    /// The product of two polynomials, modulo the generator.
    private func multiply(_ a: Word, _ b: Word) -> Word {
        var product: Word = 0
        var term = b
        // The coefficient of x^0 is the most significant bit.
        for bit in (0..<Word.bitWidth).reversed() {
            if a >> Word(bit) & 1 == 1 { product ^= term }
            term = timesX(term)
        }
        return product
    }

    /// x^(8 × bytes) modulo the generator, by repeated squaring.
    private func power(bytes: Int) -> Word {
        var result: Word = 1 << Word(Word.bitWidth - 1)
        var square = result
        for _ in 0..<8 { square = timesX(square) }
        var remaining = bytes
        while remaining > 0 {
            if remaining & 1 == 1 { result = multiply(result, square) }
            square = multiply(square, square)
            remaining >>= 1
        }
        return result
    }
}
