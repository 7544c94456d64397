import Logging
import Model
import OMCore
import Telemetry
import Wire

// Keys: looked up, opened with their first blocks, given more, committed, deleted.

extension OzoneManager {
    func handle(
        _ method: OMMethod.OfKeys, _ message: [UInt8], _ trace: TraceContext?
    ) async throws(StoreError) -> [UInt8] {
        switch method {
        case .listKeys:
            let request = try OMListKeysRequest(parsing: message)
            return try await read { reads throws(StoreError) in try reads.list(request) }.encoded
        case .lookupKey:
            return try await lookupKey(OMLookupKeyRequest(parsing: message), trace).encoded
        case .openKey:
            return try await openKey(OMOpenKeyRequest(parsing: message))
        case .openPart:
            return try await openPart(OMOpenPartRequest(parsing: message))
        case .reserve:
            return try await reserve(OMReserveRequest(parsing: message))
        case .allocateGroup:
            return try await allocateGroup(OMAllocateGroupRequest(parsing: message)).encoded
        case .commit:
            // Without places: whoever wrote the blocks knows where they are.
            return try await propose(.commit(OMCommitRequest(parsing: message)))
        case .abortOpen:
            return try await propose(.abortOpen(OMAbortOpenRequest(parsing: message)))
        case .deleteKey:
            return try await deleteKey(OMDeleteKeyRequest(parsing: message))
        case .holdBlocks:
            return try holdBlocks(OMHoldBlocksRequest(parsing: message)).encoded
        }
    }

    private func lookupKey(
        _ request: OMLookupKeyRequest, _ trace: TraceContext?
    ) async throws(StoreError) -> OMKeyResponse {
        var response = try await read { reads throws(StoreError) in try reads.key(request) }
        if response.key.groups.isEmpty { return response }
        var key = response.key
        response.clearKey()
        try await fillNodes(&key, refresh: request.refresh, trace)
        response.key = key
        return response
    }

    /// Writes into each group of `key` where its replicas are.
    private func fillNodes(
        _ key: inout OMKey, refresh: Bool, _ trace: TraceContext? = nil
    ) async throws(StoreError) {
        guard !key.groups.isEmpty else { return }
        let containers = Set(key.groups.map { ContainerID($0.block.container) })
        fillNodes(
            &key, from: try await places.locate(containers, refresh: refresh, trace: trace))
    }

    /// Groups in containers that are not in `places` get empty places: not known.
    private func fillNodes(
        _ key: inout OMKey, from places: [ContainerID: [DatanodeAddress?]]
    ) {
        for index in key.groups.indices {
            let group = key.groups[index]
            let width = Int(group.replication.data) + Int(group.replication.parity)
            var nodes = places[ContainerID(group.block.container)] ?? []
            if nodes.count != width { nodes = Array(repeating: nil, count: width) }
            key.groups[index].nodes = nodes.map { $0?.message ?? WireAddress() }
        }
    }

    /// A completed upload with the places of its blocks as far as they can be had: the change is
    /// made, and must be answered whether SCM can be asked or not.
    func located(_ answer: OMKeyResponse) async throws(StoreError) -> OMKeyResponse {
        var response = answer
        do throws(StoreError) {
            try await fillNodes(&response.key, refresh: false)
        } catch {
            logger.debug("places of a committed key are not known: \(error)")
            fillNodes(&response.key, from: [:])
        }
        return response
    }

    // MARK: Writing

    private func openKey(
        _ request: OMOpenKeyRequest
    ) async throws(StoreError) -> [UInt8] {
        let ofBucket = try await read { reads throws(StoreError) in
            try reads.replication(request.key, upload: nil, user: request.user)
        }
        var command = OMOpenCommand()
        command.key = request.key
        command.user = request.user
        command.replication = request.hasReplication ? request.replication : ofBucket
        return try await open(&command, length: request.hasLength ? request.length : nil)
    }

    private func openPart(
        _ request: OMOpenPartRequest
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
        return try await open(&command, length: request.hasLength ? request.length : nil)
    }

    private func open(
        _ command: inout OMOpenCommand, length: UInt64?
    ) async throws(StoreError) -> [UInt8] {
        if let length, length > OMLimits.keySize {
            throw StoreError(
                .invalidArgument, "a key has at most \(OMLimits.keySize) bytes, not \(length)")
        }
        let replication = try ReplicationConfig(command.replication)
        let groups = try await leases.take(
            replication, count: Self.firstGroups(replication, length: length))
        places.learn(groups.map(\.group))
        command.blocks = groups.map(\.group.blockID.message)
        guard case .open(let response) = try await answer(.open(command)) else {
            throw StoreError(.internal, "an opened key was answered as something else")
        }
        return response.encoded(with: groups.map(\.encoded))
    }

    /// Opens short keys of a bucket before they are known, each with a group.
    private func reserve(_ request: OMReserveRequest) async throws(StoreError) -> [UInt8] {
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
        let groups = try await leases.take(
            ReplicationConfig(command.replication), count: Int(request.count))
        places.learn(groups.map(\.group))
        command.blocks = groups.map(\.group.blockID.message)
        guard case .reserved(let response) = try await answer(.reserve(command)) else {
            throw StoreError(.internal, "reserved keys were answered as something else")
        }
        return response.encoded(with: groups.map(\.encoded))
    }

    /// How many groups come with a key of `length` bytes; one if the length is not known.
    private static func firstGroups(_ replication: ReplicationConfig, length: UInt64?) -> Int {
        guard let length else { return 1 }
        let size = UInt64(replication.blockGroupSize)
        return Int(min((length + size - 1) / size, UInt64(Limits.firstGroups)))
    }

    private func allocateGroup(
        _ request: OMAllocateGroupRequest
    ) async throws(StoreError) -> OMAllocateGroupResponse {
        let open = try await read { reads throws(StoreError) in
            try reads.open(request.openID, user: request.user)
        }
        let replication = try ReplicationConfig(open.replication)
        let excluding = ExcludeList(
            nodes: Set(request.excluding.map { Identity128($0) }),
            containers: Set(request.excludingContainers.map { ContainerID($0) }))
        let groups: [BlockGroup]
        if excluding.isEmpty {
            groups = try await leases.take(replication, count: 1).map(\.group)
        } else {
            // What one writer found to fail will fail the next one too.
            leases.invalidate(excluding)
            groups = try await blocks.allocate(replication, count: 1, excluding: excluding)
        }
        guard let group = groups.first else {
            throw StoreError(.internal, "SCM gave no block where one was asked for")
        }
        places.learn(groups)
        var command = OMAddBlockCommand()
        command.openID = request.openID
        command.user = request.user
        command.block = group.blockID.message
        _ = try await propose(.addBlock(command))
        var response = OMAllocateGroupResponse()
        response.group = group.message
        return response
    }

    private func deleteKey(_ request: OMDeleteKeyRequest) async throws(StoreError) -> [UInt8] {
        // Deleting what is not there is common, and nothing to write down.
        if request.condition.kind == .none {
            let exists = try await read { reads throws(StoreError) in
                try reads.exists(request.key, user: request.user)
            }
            if !exists { return OMDeleteKeyResponse().encoded }
        }
        return try await propose(.deleteKey(request))
    }

    /// Throws `cannotPlace` with the reason if the cluster cannot hold `replication` at all.
    /// Other failures of SCM say nothing about that, and are left for the first write to meet.
    func checkPlaceable(_ message: WireReplication) async throws(StoreError) {
        let replication = try ReplicationConfig(message)
        do throws(StoreError) {
            try await leases.peek(replication)
        } catch {
            if error.code == .cannotPlace { throw error }
            logger.debug("whether \(replication) can be placed is not known: \(error)")
        }
    }
}
