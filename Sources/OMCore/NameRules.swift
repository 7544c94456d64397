import Model

/// What names may look like. Each throws `invalidArgument` with the rule that was broken.
public enum NameRules {
    /// The rule of `BucketName`.
    public static func checkBucket(_ name: String) throws(StoreError) {
        if let broken = BucketName.violation(in: name) { throw refusal("bucket", name, broken) }
    }

    /// The form of a bucket's name; S3 reserves no volumes.
    public static func checkVolume(_ name: String) throws(StoreError) {
        if let broken = BucketName.violationOfForm(in: name) {
            throw refusal("volume", name, broken)
        }
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

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        (0x61...0x7A).contains(byte) || (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte)
    }

    private static func refusal(_ kind: String, _ name: String, _ rule: String) -> StoreError {
        StoreError(.invalidArgument, "the \(kind) name '\(name)' \(rule)")
    }
}
