import Logging
import Model
import OMCore
import Reactor
import Wire

// Keys: looked up, opened with their first blocks, given more, committed, deleted.

extension OzoneManager {
    func handle(
        _ method: OMMethod.OfKeys, _ message: [UInt8], _ context: IOContext, _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        switch method {
        case .listKeys:
            let request = try OMListKeysRequest(parsing: message)
            try RequestRules.check(request)
            return try await read { reads throws(StoreError) in try reads.list(request) }.encoded
        case .lookupKey:
            return try await lookupKey(OMLookupKeyRequest(parsing: message), context).encoded
        case .openKey:
            return try await openKey(OMOpenKeyRequest(parsing: message), call)
        case .openPart:
            return try await openPart(OMOpenPartRequest(parsing: message), call)
        case .reserve:
            return try await reserve(OMReserveRequest(parsing: message), call)
        case .allocateGroup:
            let request = try OMAllocateGroupRequest(parsing: message)
            try RequestRules.check(request)
            return try await allocateGroup(request, call).encoded
        case .commit:
            let request = try OMCommitRequest(parsing: message)
            try RequestRules.check(request)
            // Without places: whoever wrote the blocks knows where they are.
            return try await propose(.commit(request), for: call)
        case .abortOpen:
            return try await propose(
                .abortOpen(OMAbortOpenRequest(parsing: message)), for: call)
        case .deleteKey:
            return try await deleteKey(OMDeleteKeyRequest(parsing: message), call)
        case .holdBlocks:
            return try holdBlocks(OMHoldBlocksRequest(parsing: message)).encoded
        }
    }

    private func lookupKey(
        _ request: OMLookupKeyRequest, _ context: IOContext
    ) async throws(StoreError) -> OMKeyResponse {
        var response = try await read { reads throws(StoreError) in try reads.key(request) }
        if response.key.groups.isEmpty { return response }
        try await fillNodes(&response, refresh: request.refresh, context)
        return response
    }

    /// Writes into each group of the answer where its replicas are.
    private func fillNodes(
        _ response: inout OMKeyResponse, refresh: Bool, _ context: IOContext = .client
    ) async throws(StoreError) {
        guard !response.key.groups.isEmpty else { return }
        let containers = Set(response.key.groups.map { ContainerID($0.block.container) })
        Self.fillNodes(
            &response, from: try await places.locate(containers, refresh: refresh, context: context)
        )
    }

    /// Groups in containers that are not in `places` get empty places: not known. Those beyond
    /// `OMLimits.answerBytes` are left for their reader to ask for.
    static func fillNodes(
        _ response: inout OMKeyResponse, from places: [ContainerID: [DatanodeAddress?]]
    ) {
        var key = response.key
        response.clearKey()
        var size = 0
        for index in key.groups.indices {
            guard size < OMLimits.answerBytes else {
                cut(&key.groups, to: index, &response)
                break
            }
            let group = key.groups[index]
            // Of one that stands for nothing no place is known; its reader is told.
            let width = (try? ReplicationConfig(group.replication))?.width ?? 0
            var nodes = places[ContainerID(group.block.container)] ?? []
            if nodes.count != width { nodes = Array(repeating: nil, count: width) }
            size += Limits.groupBytes
            key.groups[index].nodes = nodes.map { node in
                guard let node else { return WireAddress() }
                size += node.host.utf8.count + node.rack.utf8.count + Limits.addressBytes
                return node.message
            }
        }
        response.key = key
    }

    /// Leaves the first `count` groups in an answer, which says where in the key they end.
    private static func cut(
        _ groups: inout [WireGroup], to count: Int, _ response: inout OMKeyResponse
    ) {
        var excerpt = response.excerpt.first ?? OMKeyExcerpt()
        excerpt.groupsEnd = groups[..<count].reduce(excerpt.groupsOffset) { end, group in
            end + (group.count == 0 ? group.length : group.count)
        }
        response.excerpt = [excerpt]
        groups.removeSubrange(count...)
    }

    /// A completed upload with the places of its blocks as far as they can be had: the change is
    /// made, and must be answered whether SCM can be asked or not.
    func located(_ answer: OMKeyResponse) async throws(StoreError) -> OMKeyResponse {
        var response = answer
        if response.key.groups.count > OMLimits.groupsPerAnswer {
            var groups = response.key.groups
            Self.cut(&groups, to: OMLimits.groupsPerAnswer, &response)
            response.key.groups = groups
        }
        do throws(StoreError) {
            try await fillNodes(&response, refresh: false)
        } catch {
            logger.debug("places of a committed key are not known: \(error)")
            Self.fillNodes(&response, from: [:])
        }
        return response
    }

    // MARK: Writing

    private func openKey(
        _ request: OMOpenKeyRequest, _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        let ofBucket = try await read { reads throws(StoreError) in
            try reads.replication(request.key, upload: nil, user: request.user)
        }
        var command = OMOpenCommand()
        command.key = request.key
        command.user = request.user
        command.replication = request.hasReplication ? request.replication : ofBucket
        return try await open(
            &command, length: request.hasLength ? request.length : nil,
            avoiding: request.avoiding, call)
    }

    private func openPart(
        _ request: OMOpenPartRequest, _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        guard request.number >= 1, request.number <= OMLimits.parts else {
            throw StoreError(
                .invalidArgument,
                "parts are numbered 1 to \(OMLimits.parts), not \(request.number)")
        }
        var command = OMOpenCommand()
        command.key = request.key
        command.user = request.user
        command.upload = request.upload
        command.part = request.number
        command.replication = try await read { reads throws(StoreError) in
            try reads.replication(request.key, upload: request.upload, user: request.user)
        }
        return try await open(
            &command, length: request.hasLength ? request.length : nil,
            avoiding: request.avoiding, call)
    }

    private func open(
        _ command: inout OMOpenCommand, length: UInt64?, avoiding slow: [WireIdentity],
        _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        if let length, length > OMLimits.keySize {
            throw StoreError(
                .invalidArgument, "a key has at most \(OMLimits.keySize) bytes, not \(length)")
        }
        let replication = try ReplicationConfig(writable: command.replication)
        let groups = try await takeGroups(
            replication, count: Self.firstGroups(replication, length: length), avoiding: slow)
        places.learn(groups.map(\.group))
        command.blocks = groups.map(\.group.blockID.message)
        let answer = try await answer(.open(command), for: call)
        guard case .open(let response) = answer else {
            throw StoreError(.internal, "an opened key was answered as something else")
        }
        // Opened before: with the groups of then.
        guard response.groups.isEmpty else { return try await message(of: answer, .openKey) }
        return response.encoded(with: groups.map(\.encoded))
    }

    /// Opens short keys of a bucket before they are known, each with a group.
    private func reserve(
        _ request: OMReserveRequest, _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        guard (1...UInt32(OMLimits.reservedKeys)).contains(request.count) else {
            throw StoreError(
                .invalidArgument,
                "1 to \(OMLimits.reservedKeys) keys are reserved at once, not \(request.count)")
        }
        var command = OMReserveCommand()
        command.bucket = request.bucket
        command.user = request.user
        var bucket = OMBucketRequest()
        bucket.bucket = request.bucket
        bucket.user = request.user
        let asked = bucket
        command.replication = try await read { reads throws(StoreError) in
            try reads.bucket(asked).replication
        }
        let groups = try await takeGroups(
            ReplicationConfig(writable: command.replication), count: Int(request.count),
            avoiding: request.avoiding)
        places.learn(groups.map(\.group))
        command.blocks = groups.map(\.group.blockID.message)
        let answer = try await answer(.reserve(command), for: call)
        guard case .reserved(let response) = answer else {
            throw StoreError(.internal, "reserved keys were answered as something else")
        }
        guard response.groups.isEmpty else { return try await message(of: answer, .reserve) }
        return response.encoded(with: groups.map(\.encoded))
    }

    /// Groups without a place on nodes that are slow, or, if there are no whole ones without, as
    /// they come.
    private func takeGroups(
        _ replication: ReplicationConfig, count: Int, avoiding slow: [WireIdentity]
    ) async throws(StoreError) -> [GroupLeases.Leased] {
        try RequestRules.check(avoiding: slow)
        if !slow.isEmpty {
            do throws(StoreError) {
                return try await leases.take(
                    replication, count: count,
                    excluding: ExcludeList(
                        nodes: Set(slow.map { Identity128($0) }), degradedGroups: true))
            } catch {
                // There are none, or SCM does not say: any will do.
                logger.debug("no groups of \(replication) without slow nodes: \(error)")
            }
        }
        return try await leases.take(replication, count: count)
    }

    /// How many groups come with a key of `length` bytes; one if the length is not known.
    private static func firstGroups(_ replication: ReplicationConfig, length: UInt64?) -> Int {
        guard let length else { return 1 }
        let size = UInt64(replication.blockGroupSize)
        return Int(min((length + size - 1) / size, UInt64(Limits.firstGroups)))
    }

    private func allocateGroup(
        _ request: OMAllocateGroupRequest, _ call: CallID?
    ) async throws(StoreError) -> OMAllocateGroupResponse {
        let open = try await read { reads throws(StoreError) in
            try reads.open(request.openID, user: request.user)
        }
        let replication = try ReplicationConfig(writable: open.replication)
        let excluding = ExcludeList(
            nodes: Set(request.excluding.map { Identity128($0) }),
            slowNodes: Set(request.slow.map { Identity128($0) }),
            containers: Set(request.excludingContainers.map { ContainerID($0) }),
            degradedGroups: request.whole)
        let groups: [BlockGroup]
        if excluding.isEmpty {
            groups = try await leases.take(replication, count: 1).map(\.group)
        } else {
            // What one writer found to fail will fail the next one too; what is slow need not.
            leases.invalidate(
                ExcludeList(
                    nodes: excluding.nodes.subtracting(excluding.slowNodes),
                    containers: excluding.containers))
            let atHand = leases.takeAtHand(replication, count: 1, excluding: excluding)
            groups =
                atHand.isEmpty
                ? try await leases.ask(
                    replication, count: 1, excluding: excluding,
                    // Who wants a whole group or none goes on without.
                    patience: request.whole ? GroupLeases.Limits.patience : nil)
                : atHand.map(\.group)
        }
        guard let group = groups.first else {
            throw StoreError(.internal, "SCM gave no block where one was asked for")
        }
        places.learn(groups)
        var command = OMAddBlockCommand()
        command.openID = request.openID
        command.user = request.user
        command.block = group.blockID.message
        guard case .group(var response) = try await answer(.addBlock(command), for: call) else {
            throw StoreError(.internal, "one more group was answered as something else")
        }
        guard response.group.block == command.block else {
            // Added before, and another one.
            response.group = try await placed([response.group])[0]
            return response
        }
        response.group = group.message
        return response
    }

    private func deleteKey(
        _ request: OMDeleteKeyRequest, _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        // Deleting what is not there is common, and nothing to write down. Of a repeat it may be the
        // first attempt that has deleted it, which the log knows.
        if request.condition.kind == .none, call?.isRepeat != true {
            let exists = try await read { reads throws(StoreError) in
                try reads.exists(request.key, user: request.user)
            }
            if !exists { return OMDeleteKeyResponse().encoded }
        }
        return try await propose(.deleteKey(request), for: call)
    }

    /// Throws `cannotPlace` with the reason if the cluster cannot hold `replication` at all, and
    /// `unsupported` if it is none that keys can be written with.
    /// Other failures of SCM say nothing about that, and are left for the first write to meet.
    func checkPlaceable(_ message: WireReplication) async throws(StoreError) {
        let replication = try ReplicationConfig(writable: message)
        do throws(StoreError) {
            try await leases.peek(replication)
        } catch {
            if error.code == .cannotPlace { throw error }
            logger.debug("whether \(replication) can be placed is not known: \(error)")
        }
    }
}
