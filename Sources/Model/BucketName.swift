/// What a bucket may be called: S3's rules for general purpose buckets, whose names become host
/// names. The one place that knows them, for the command line and for every gateway: a bucket that
/// can be made by one way can be reached by all.
///
/// The Ozone Manager asks this while it applies commands, also old ones again: what is a name
/// today has to stay one. `amzn-s3-demo-`, which S3 reserved late and for the examples of its
/// documentation alone, is therefore a beginning like any other.
public enum BucketName {
    /// The rule in a sentence.
    public static let rule =
        "A bucket's name has 3 to 63 lower-case letters, digits, hyphens and dots, begins and ends "
        + "with a letter or digit, has no two dots in a row, does not look like an IP address, and "
        + "neither begins nor ends with a word that S3 reserves."

    /// What S3 reserves at the beginning of a name.
    static let reservedPrefixes = ["xn--", "sthree-"]
    /// What S3 reserves at the end of a name.
    static let reservedSuffixes = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"]

    public static func isValid(_ name: String) -> Bool { violation(in: name) == nil }

    /// What is wrong with `name`, as the rest of a sentence that begins with it; nil if nothing is.
    public static func violation(in name: String) -> String? {
        if let broken = violationOfForm(in: name) { return broken }
        for prefix in reservedPrefixes where name.hasPrefix(prefix) {
            return "must not begin with '\(prefix)', which S3 reserves"
        }
        for suffix in reservedSuffixes where name.hasSuffix(suffix) {
            return "must not end with '\(suffix)', which S3 reserves"
        }
        return nil
    }

    /// The same without the reserved words: what is wrong with the form of `name`.
    public static func violationOfForm(in name: String) -> String? {
        let bytes = Array(name.utf8)
        guard (3...63).contains(bytes.count) else {
            return "must have 3 to 63 characters, not \(bytes.count)"
        }
        for byte in bytes
        where !isLowercaseOrDigit(byte) && byte != UInt8(ascii: "-") && byte != UInt8(ascii: ".") {
            return "may only hold lowercase letters, digits, hyphens and dots"
        }
        guard isLowercaseOrDigit(bytes[0]), isLowercaseOrDigit(bytes[bytes.count - 1]) else {
            return "must begin and end with a letter or digit"
        }
        let labels = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        if labels.contains(where: \.isEmpty) { return "must not hold two dots in a row" }
        let isAddress = labels.count == 4 && labels.allSatisfy { $0.allSatisfy(isDigit) }
        return isAddress ? "must not look like an IP address" : nil
    }

    private static func isLowercaseOrDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte) || isDigit(byte)
    }

    private static func isDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
}
