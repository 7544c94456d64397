/// Percent-encoding of URLs as SigV4 defines it: everything but `A-Za-z0-9-._~` is written `%XX`
/// with upper-case digits.
enum PercentEncoding {
    /// Encodes bytes; a slash stays as it is if `keepSlash`.
    static func encode(_ bytes: some Sequence<UInt8>, keepSlash: Bool) -> String {
        var text: [UInt8] = []
        text.reserveCapacity(bytes.underestimatedCount)
        for byte in bytes {
            if isUnreserved(byte) || (keepSlash && byte == UInt8(ascii: "/")) {
                text.append(byte)
            } else {
                text.append(UInt8(ascii: "%"))
                text.append(upperDigit(byte >> 4))
                text.append(upperDigit(byte & 0xF))
            }
        }
        return String(decoding: text, as: UTF8.self)
    }

    static func encode(_ text: some StringProtocol, keepSlash: Bool) -> String {
        encode(text.utf8, keepSlash: keepSlash)
    }

    /// Decodes `%XX`; `nil` if a percent sign has no two digits behind it.
    /// - Parameter plusIsSpace: whether `+` stands for a space, as in a query.
    static func decode(_ text: some StringProtocol, plusIsSpace: Bool = false) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.utf8.count)
        var characters = text.utf8.makeIterator()
        while let character = characters.next() {
            switch character {
            case UInt8(ascii: "%"):
                guard let first = characters.next(), let second = characters.next(),
                    let high = Hex.value(of: first), let low = Hex.value(of: second)
                else { return nil }
                bytes.append(high << 4 | low)
            case UInt8(ascii: "+") where plusIsSpace:
                bytes.append(UInt8(ascii: " "))
            default:
                bytes.append(character)
            }
        }
        return bytes
    }

    private static func isUnreserved(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."),
            UInt8(ascii: "_"), UInt8(ascii: "~"):
            true
        default: false
        }
    }

    private static func upperDigit(_ nibble: UInt8) -> UInt8 {
        nibble < 10 ? UInt8(ascii: "0") + nibble : UInt8(ascii: "A") + nibble - 10
    }
}
