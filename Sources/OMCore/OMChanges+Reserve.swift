import Model
import Wire

// Open keys without names, for writers of many short keys: one command opens several, and each
// then costs one command more, its commit, which brings the name.

extension OMChanges {
    func reserve(_ command: OMReserveCommand) throws(StoreError) -> OMReserveResponse {
        _ = try reads.bucket(command.bucket, user: command.user)
        _ = try ReplicationConfig(writable: command.replication)
        guard command.blocks.count <= OMLimits.reservedKeys else {
            throw StoreError(
                .invalidArgument,
                "at most \(OMLimits.reservedKeys) keys are reserved at once, "
                    + "not \(command.blocks.count)")
        }
        var record = OMOpenRecord()
        record.user = command.user
        record.created = logTime
        record.replication = command.replication
        var response = OMReserveResponse()
        response.replication = command.replication
        for (place, block) in command.blocks.enumerated() {
            let id = OMTableKey.openID(of: index, place: place + 1)
            record.blocks = [block]
            add(OMTable.opens, OMTableKey.open(id), record)
            response.openIds.append(id)
        }
        return response
    }

    /// `open` with the name that its commit brings, if it was reserved.
    func named(
        _ open: OMOpenRecord, by request: OMCommitRequest
    ) throws(StoreError) -> OMOpenRecord {
        guard !open.hasKey else { return open }
        guard request.hasKey, !request.hasUpload else {
            throw StoreError(
                .badRequest, "open key \(request.openID) was reserved: its commit names the key")
        }
        let bucket = try reads.bucket(request.key.bucket, user: open.user)
        _ = try NameRules.checkKey(request.key.name.octets)
        var named = open
        named.key = request.key
        named.bucketNumber = bucket.number
        return named
    }
}

extension OMTableKey {
    /// The number of the open key at `place` of a command, in the order of their age. A key that
    /// has a command to itself is at place 0.
    static func openID(of index: UInt64, place: Int) -> UInt64 {
        precondition(index < 1 << 56 && place <= OMLimits.reservedKeys, "a number of an open key")
        return index << 8 | UInt64(place)
    }
}
