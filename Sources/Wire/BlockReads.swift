import Bytes
import Checksum
import Model

// Reads of block replicas, as every reader of datanodes asks for them and takes the answer.

extension DNReadBlockRequest {
    /// Asks for `range` of the block replica `index`, from 1.
    public init(_ block: BlockID, index: Int, _ range: Range<Int>, token: [UInt8] = []) {
        self.init()
        self.block = block.message
        replicaIndex = UInt32(index)
        self.token = .octets(token)
        offset = UInt64(range.lowerBound)
        length = UInt64(range.count)
    }

    /// Bytes that the answer brings at most: the range, rounded out to checksum units.
    public static func answerBytes(_ range: Range<Int>) -> Int {
        let unit = ReplicationConfig.checksumUnit
        return (range.upperBound + unit - 1) / unit * unit - range.lowerBound / unit * unit
    }
}

extension DNReadBlockResponse {
    /// The bytes of `range` from `payload`, which came with this answer from `source` and is
    /// verified against the checksums that it was written with.
    ///
    /// - Throws: `corrupt` if it does not match them, `badRequest` if it is not what was asked for.
    public func bytes(
        of range: Range<Int>, in payload: Payload?, _ block: BlockID,
        from source: some CustomStringConvertible
    ) throws(StoreError) -> Payload {
        guard let payload else {
            throw StoreError(.badRequest, "\(source) answered a read without bytes")
        }
        do throws(UnitMismatch) {
            try payload.withBytes { (bytes) throws(UnitMismatch) in
                try CRC32C.verifyUnits(bytes, against: checksums)
            }
        } catch {
            throw StoreError(.corrupt, "\(block) from \(source): \(error)")
        }
        let skip = range.lowerBound - Int(clamping: offset)
        guard skip >= 0, skip + range.count <= payload.count else {
            throw StoreError(
                .badRequest,
                "\(source) answered a read of \(range) of \(block) with \(payload.count) bytes "
                    + "from \(offset)")
        }
        return payload.slice(skip..<skip + range.count)
    }
}
