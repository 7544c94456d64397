import Model

/// What names may look like. Each throws `invalidArgument` with the rule that was broken.
public enum NameRules {
    /// S3's rules for buckets: they become host names.
    public static func checkBucket(_ name: String) throws(StoreError) {
        try checkHostName(name, kind: "bucket")
        for prefix in ["xn--", "sthree-"] where name.hasPrefix(prefix) {
            throw refusal("bucket", name, "must not begin with '\(prefix)', which S3 reserves")
        }
        for suffix in ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"]
        where name.hasSuffix(suffix) {
            throw refusal("bucket", name, "must not end with '\(suffix)', which S3 reserves")
        }
    }

    /// The same rules without S3's reserved words.
    public static func checkVolume(_ name: String) throws(StoreError) {
        try checkHostName(name, kind: "volume")
    }

    public static func checkUser(_ name: String) throws(StoreError) {
        let allowed = name.utf8.allSatisfy { isLetterOrDigit($0) || "._@+=-".utf8.contains($0) }
        guard allowed, (1...64).contains(name.utf8.count) else {
            throw refusal(
                "user", name, "must be 1 to 64 letters, digits and characters of ._@+=-")
        }
    }

    /// Access keys stand in a header between slashes and commas.
    public static func checkAccessKey(_ id: String) throws(StoreError) {
        let allowed = id.utf8.allSatisfy { isLetterOrDigit($0) || "._-".utf8.contains($0) }
        guard allowed, (3...128).contains(id.utf8.count) else {
            throw StoreError(
                .invalidArgument,
                "an access key ID is 3 to 128 letters, digits and characters of ._-, not '\(id)'")
        }
    }

    public static func checkKey(_ name: [UInt8]) throws(StoreError) -> KeyName {
        guard let name = KeyName(bytes: name) else {
            throw StoreError(
                .invalidArgument,
                name.isEmpty
                    ? "a key name must not be empty"
                    : "a key name is at most \(KeyName.maximumLength) bytes of UTF-8; "
                        + "this one has \(name.count) bytes")
        }
        return name
    }

    private static func checkHostName(_ name: String, kind: String) throws(StoreError) {
        let bytes = Array(name.utf8)
        guard (3...63).contains(bytes.count) else {
            throw refusal(kind, name, "must have 3 to 63 characters, not \(bytes.count)")
        }
        for byte in bytes
        where !isLowercaseOrDigit(byte) && byte != UInt8(ascii: "-") && byte != UInt8(ascii: ".") {
            throw refusal(
                kind, name, "may only hold lowercase letters, digits, hyphens and dots")
        }
        guard isLowercaseOrDigit(bytes[0]), isLowercaseOrDigit(bytes[bytes.count - 1]) else {
            throw refusal(kind, name, "must begin and end with a letter or digit")
        }
        let labels = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        if labels.contains(where: \.isEmpty) {
            throw refusal(kind, name, "must not hold two dots in a row")
        }
        let isAddress =
            labels.count == 4
            && labels.allSatisfy { label in label.allSatisfy { $0 >= 0x30 && $0 <= 0x39 } }
        if isAddress { throw refusal(kind, name, "must not look like an IP address") }
    }

    private static func isLowercaseOrDigit(_ byte: UInt8) -> Bool {
        (0x61...0x7A).contains(byte) || (0x30...0x39).contains(byte)
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        isLowercaseOrDigit(byte) || (0x41...0x5A).contains(byte)
    }

    private static func refusal(_ kind: String, _ name: String, _ rule: String) -> StoreError {
        StoreError(.invalidArgument, "the \(kind) name '\(name)' \(rule)")
    }
}
