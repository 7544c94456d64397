/// One range of bytes as the `Range` header asks for it (RFC 9110, 14.1.2).
enum ByteRange: Equatable {
    /// From the first number to the second, both included; to the end if there is no second.
    case from(Int, through: Int?)
    /// This many bytes at the end.
    case last(Int)

    /// `nil` for what is to be passed over as S3 does: another unit, several ranges, nonsense.
    init?(_ header: String) {
        guard header.lowercased().hasPrefix("bytes=") else { return nil }
        let spec = trimmingSpaces(header.dropFirst(6))
        let parts = spec.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else { return nil }
        if parts[0].isEmpty {
            guard let count = Self.number(parts[1]) else { return nil }
            self = .last(count)
            return
        }
        guard let first = Self.number(parts[0]) else { return nil }
        if parts[1].isEmpty {
            self = .from(first, through: nil)
            return
        }
        guard let last = Self.number(parts[1]), last >= first else { return nil }
        self = .from(first, through: last)
    }

    /// The bytes of an object of `length` bytes; nil if none of them is asked for. The end of
    /// nothing is all of it, and an empty range.
    func resolve(length: Int) -> Range<Int>? {
        switch self {
        case .from(let first, let last):
            guard first < length else { return nil }
            return first..<min(length, last.map { $0 == Int.max ? $0 : $0 + 1 } ?? length)
        case .last(let count):
            guard count > 0 else { return nil }
            return max(0, length - count)..<length
        }
    }

    private static func number(_ text: Substring) -> Int? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
        // More than fits is beyond the end of anything.
        return Int(text) ?? Int.max
    }
}
