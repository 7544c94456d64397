import Model
import RaftDriver
import Reactor
import Telemetry
import Transport
import Wire

/// The Ozone Manager behind the native RPC.
public struct OMService: RPCHandler {
    private let manager: OzoneManager

    public init(_ manager: OzoneManager) { self.manager = manager }

    public func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard let method = OMMethod(rawValue: request.method) else {
            throw StoreError(
                .unsupported, "OM has no method 0x\(String(request.method, radix: 16))")
        }
        // One that does not lead asks, before it reads, how far it must have applied.
        guard manager.leads || request.isForAnyMember && method.isAnsweredByAny else {
            throw manager.group.notLeader
        }
        if let trace = request.context.trace, Self.mayAskSCM(method) {
            return RPCReply(
                try await trace.follow { () async throws(StoreError) in
                    try await manager.handle(
                        method: method, message: request.message, context: request.context,
                        call: request.call)
                })
        }
        return RPCReply(
            try await manager.handle(
                method: method, message: request.message, context: request.context,
                call: request.call))
    }
}

extension OMService {
    /// Whether answering may ask SCM for groups. Looking a key up may ask it for places, rarely, and
    /// is handed the trace instead: binding it to the task costs more than a look-up should.
    private static func mayAskSCM(_ method: OMMethod) -> Bool {
        switch method {
        case .openKey, .openPart, .reserve, .allocateGroup, .completeUpload: true
        case .createUser, .userByAccessKey, .userByName, .listUsers, .deleteUser, .createVolume,
            .listVolumes, .deleteVolume, .createBucket, .bucket, .listBuckets, .deleteBucket,
            .listKeys, .lookupKey, .commit, .abortOpen, .deleteKey, .holdBlocks, .createUpload,
            .upload, .listParts, .abortUpload, .listUploads:
            false
        }
    }
}

/// The SCM that leads, as the Ozone Manager asks it for blocks.
public struct SCMBlockAllocator: BlockAllocator {
    private let channel: LeaderChannel
    private let timeout: Duration

    public init(_ channel: LeaderChannel, timeout: Duration = .seconds(10)) {
        self.channel = channel
        self.timeout = timeout
    }

    public func allocate(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList, patience: Duration?
    ) async throws(StoreError) -> [BlockGroup] {
        var request = SCMAllocateRequest()
        request.replication = replication.message
        request.count = UInt32(count)
        request.excluding = excluding.nodes.sorted().map(\.message)
        request.excludingContainers = excluding.containers.sorted().map(\.rawValue)
        request.whole = excluding.degradedGroups
        let response = try SCMGroupsResponse(
            parsing: try await call(
                .allocate, request.encoded, timeout: patience.map { min($0, timeout) }))
        var groups: [BlockGroup] = []
        for group in response.groups { groups.append(try BlockGroup(group)) }
        return groups
    }

    public func closings(
        since mark: ClosingsMark, watcher: Identity128
    ) async throws(StoreError) -> Closings {
        var request = SCMClosingsRequest()
        request.watcher = watcher.message
        request.term = mark.term
        request.sequence = mark.sequence
        let response = try SCMClosingsResponse(
            parsing: try await call(.closings, request.encoded))
        return Closings(
            mark: ClosingsMark(term: response.term, sequence: response.sequence),
            containers: response.containers.map { ContainerID($0) },
            isIncomplete: response.isIncomplete)
    }

    public func delete(_ blocks: [BlockID]) async throws(StoreError) {
        var request = SCMDeleteBlocksRequest()
        request.blocks = blocks.map(\.message)
        _ = try await call(.deleteBlocks, request.encoded, repetition: .identified)
    }

    public func locate(
        _ containers: [ContainerID], _ context: IOContext
    ) async throws(StoreError) -> [ContainerID: [DatanodeAddress?]] {
        var request = SCMLocateRequest()
        request.containers = containers.map(\.rawValue)
        let response = try SCMLocateResponse(
            parsing: try await call(.locate, request.encoded, context))
        var places: [ContainerID: [DatanodeAddress?]] = [:]
        for place in response.places {
            var nodes: [DatanodeAddress?] = []
            for node in place.nodes { nodes.append(try DatanodeAddress(node)) }
            places[ContainerID(place.container)] = nodes
        }
        return places
    }

    private func call(
        _ method: SCMMethod, _ message: [UInt8], _ context: IOContext = .client,
        timeout limit: Duration? = nil, repetition: LeaderChannel.Repetition = .harmless
    ) async throws(StoreError) -> [UInt8] {
        do throws(StoreError) {
            return try await channel.call(
                // Groups that are allocated in vain are never written.
                method.rawValue, message, timeout: limit ?? timeout, context: context,
                repetition: repetition
            ).message
        } catch {
            // Said of SCM, and not by this member of OM's group of itself.
            guard error.code == .notLeader || error.code == .connection else { throw error }
            throw StoreError(.unavailable, "SCM: \(error.message)")
        }
    }
}
