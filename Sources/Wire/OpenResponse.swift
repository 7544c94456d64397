// Answers that carry block groups, whose bytes the Ozone Manager puts together once, when it fetches
// them. In protobuf's encoding a repeated field may stand behind all others, each element with its
// tag and length.

extension OMOpenResponse {
    /// The bytes of this response with groups whose bytes are known already.
    public func encoded(with groups: [[UInt8]]) -> [UInt8] {
        precondition(self.groups.isEmpty, "groups come encoded or in the message, not both")
        return encoded.appending(groups, field: 3)
    }
}

extension OMReserveResponse {
    /// The bytes of this response with groups whose bytes are known already.
    public func encoded(with groups: [[UInt8]]) -> [UInt8] {
        precondition(self.groups.isEmpty, "groups come encoded or in the message, not both")
        return encoded.appending(groups, field: 3)
    }
}

extension [UInt8] {
    /// With `messages` as elements of field `field`, a number below 16.
    fileprivate func appending(_ messages: [[UInt8]], field: UInt8) -> [UInt8] {
        var bytes = self
        for message in messages {
            // Length-delimited.
            bytes.append(field << 3 | 2)
            var length = UInt64(message.count)
            while length >= 0x80 {
                bytes.append(UInt8(truncatingIfNeeded: length) | 0x80)
                length >>= 7
            }
            bytes.append(UInt8(length))
            bytes += message
        }
        return bytes
    }
}
