import Model
import Wire

// Answers as they are remembered for repeats of a call: what it is, then its message. Opened keys, of
// which there are many, have a form of their own, which costs less than a message.

extension OMStateMachine {
    /// What an answer that is remembered is. Numbers are part of the format on disk.
    private enum Kind: UInt8 {
        case done = 0
        case open = 1
        case reserved = 2
        case key = 3
        case deletedKey = 4
        case upload = 5
        case group = 6
        /// A code (2 bytes, the most significant first) and a sentence.
        case refused = 7
        /// None that can be given again: no command is answered so.
        case none = 8
    }

    /// With the blocks that the command brought: whoever proposed it first had them at hand, and
    /// another has others. Where they are is not remembered.
    public func encode(_ answer: OMAnswer, to command: OMCommand) -> [UInt8] {
        switch answer {
        case .done: return [Kind.done.rawValue]
        case .open(let response):
            guard case .open(let command) = command.body else { return [Kind.none.rawValue] }
            return Self.opened(
                .open, [response.openID], command.blocks, response.replication)
        case .reserved(let response):
            guard case .reserve(let command) = command.body else { return [Kind.none.rawValue] }
            return Self.opened(
                .reserved, response.openIds, command.blocks, response.replication)
        case .key(let response): return [Kind.key.rawValue] + response.encoded
        case .deletedKey(let response): return [Kind.deletedKey.rawValue] + response.encoded
        case .upload(let response): return [Kind.upload.rawValue] + response.encoded
        case .group(let response): return [Kind.group.rawValue] + response.encoded
        case .refused(let error):
            var bytes = [Kind.refused.rawValue]
            bytes.appendBigEndian(error.code.rawValue)
            return bytes + Array(error.message.utf8)
        }
    }

    /// Numbers have their most significant byte first: u16 count and u64 each of the open keys, u16
    /// count and two u64 each (container, local ID) of the blocks; then the replication's message.
    private static func opened(
        _ kind: Kind, _ ids: [UInt64], _ blocks: [WireBlock], _ replication: WireReplication
    ) -> [UInt8] {
        let replication = replication.encoded
        var bytes: [UInt8] = []
        bytes.reserveCapacity(5 + 8 * ids.count + 16 * blocks.count + replication.count)
        bytes.append(kind.rawValue)
        bytes.appendBigEndian(UInt16(clamping: ids.count))
        for id in ids { bytes.appendBigEndian(id) }
        bytes.appendBigEndian(UInt16(clamping: blocks.count))
        for block in blocks {
            bytes.appendBigEndian(block.container)
            bytes.appendBigEndian(block.local)
        }
        return bytes + replication
    }

    private static func parseOpened(
        _ bytes: [UInt8]
    ) throws(StoreError) -> (ids: [UInt64], groups: [WireGroup], replication: WireReplication) {
        func check(_ count: Int) throws(StoreError) {
            guard bytes.count >= count else {
                throw StoreError(.corrupt, "an opened key that is remembered is cut off")
            }
        }
        try check(2)
        let idCount = Int(bytes.bigEndian(at: 0, as: UInt16.self))
        let blocksAt = 2 + 8 * idCount
        try check(blocksAt + 2)
        let blockCount = Int(bytes.bigEndian(at: blocksAt, as: UInt16.self))
        let end = blocksAt + 2 + 16 * blockCount
        try check(end)
        let replication = try WireReplication(parsing: Array(bytes[end...]))
        let groups = (0..<blockCount).map { number in
            var group = WireGroup()
            group.block.container = bytes.bigEndian(at: blocksAt + 2 + 16 * number)
            group.block.local = bytes.bigEndian(at: blocksAt + 10 + 16 * number)
            group.replication = replication
            return group
        }
        return ((0..<idCount).map { bytes.bigEndian(at: 2 + 8 * $0) }, groups, replication)
    }

    /// Of an opened or reserved key its groups come along, without places.
    public func decode(answer bytes: [UInt8]) throws(StoreError) -> OMAnswer {
        guard let first = bytes.first, let kind = Kind(rawValue: first) else {
            throw StoreError(
                .versionMismatch,
                "an answer of kind \(bytes.first ?? 0) is remembered, which this version does not "
                    + "know")
        }
        let rest = Array(bytes.dropFirst())
        switch kind {
        case .done: return .done
        case .none:
            throw StoreError(.corrupt, "an answer is remembered that belongs to another command")
        case .open:
            var response = OMOpenResponse()
            let opened = try Self.parseOpened(rest)
            response.openID = opened.ids.first ?? 0
            response.groups = opened.groups
            response.replication = opened.replication
            return .open(response)
        case .reserved:
            var response = OMReserveResponse()
            let opened = try Self.parseOpened(rest)
            response.openIds = opened.ids
            response.groups = opened.groups
            response.replication = opened.replication
            return .reserved(response)
        case .key: return .key(try OMKeyResponse(parsing: rest))
        case .deletedKey: return .deletedKey(try OMDeleteKeyResponse(parsing: rest))
        case .upload: return .upload(try OMCreateUploadResponse(parsing: rest))
        case .group: return .group(try OMAllocateGroupResponse(parsing: rest))
        case .refused:
            guard rest.count >= 2 else {
                throw StoreError(.corrupt, "a refusal that is remembered is cut off")
            }
            return .refused(
                StoreError(
                    StoreError.Code(rawValue: rest.bigEndian(at: 0)) ?? .internal,
                    String(decoding: rest[2...], as: UTF8.self)))
        }
    }
}
