extension OMOpenResponse {
    /// The bytes of this response with groups whose bytes are known already.
    ///
    /// In protobuf's encoding a repeated field may stand behind all others, each element with its
    /// tag and length.
    public func encoded(with groups: [[UInt8]]) -> [UInt8] {
        precondition(self.groups.isEmpty, "groups come encoded or in the message, not both")
        var bytes = encoded
        for group in groups {
            bytes.append(Self.groupsTag)
            var length = UInt64(group.count)
            while length >= 0x80 {
                bytes.append(UInt8(truncatingIfNeeded: length) | 0x80)
                length >>= 7
            }
            bytes.append(UInt8(length))
            bytes += group
        }
        return bytes
    }

    /// Field 3, length-delimited.
    private static let groupsTag: UInt8 = 3 << 3 | 2
}
