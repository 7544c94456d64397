import Logging
import Model
import RaftDriver
import Reactor
import SCMCore
import Wire

// Blocks and containers: what the Ozone Manager, clients and people ask, of the member that leads.

extension StorageContainerManager {
    /// `count` new block groups; see `SCMState.allocate`.
    ///
    /// Each with the permissions of a member that leads at a time after this was called: one that
    /// was deposed, and does not know which containers are being closed, could have a replica made
    /// that was noted as empty (docs/decisions/0012).
    public func allocate(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList
    ) async throws(StoreError) -> [BlockGroup] {
        switch try await decide(replication, count, excluding) {
        case .groups(let groups): return groups
        case .refused(let error): throw error
        case .needs: break
        }
        return try await exclusively { () async throws(StoreError) in
            for _ in 0..<Limits.decisions {
                switch try await self.decide(replication, count, excluding) {
                case .groups(let groups): return groups
                case .refused(let error): throw error
                // Refused or not, others may have logged something: decided anew.
                case .needs(let command): _ = try await self.change(command)
                }
            }
            throw StoreError(
                .overloaded, "containers change faster than groups are decided: try again later")
        }
    }

    private func decide(
        _ replication: ReplicationConfig, _ count: Int, _ excluding: ExcludeList
    ) async throws(StoreError) -> SCMState.Allocation {
        try lead()
        try await group.readBarrier()
        var generator = AnyGenerator(base: random)
        defer { random = generator.base }
        return memory.withState { state, now in
            if excluding.degradedGroups,
                let error = state.wholeGroupError(replication, excluding: excluding.nodes, at: now)
            {
                return .refused(error)
            }
            return state.allocate(
                replication, count: count, excluding: excluding, at: now, using: &generator)
        }
    }

    /// A member that was deposed would not know containers that were made since, and keys would
    /// seem to be lost.
    func locate(_ request: SCMLocateRequest) async throws(StoreError) -> SCMLocateResponse {
        try lead()
        try await group.readBarrier()
        return memory.withState { state, now in
            var response = SCMLocateResponse()
            response.places = request.containers.compactMap { number in
                guard let nodes = state.places(of: ContainerID(number), at: now) else { return nil }
                var place = SCMLocateResponse.Place()
                place.container = number
                place.nodes = nodes.map { $0?.message ?? WireAddress() }
                return place
            }
            return response
        }
    }

    func deleteBlocks(
        _ request: SCMDeleteBlocksRequest, _ call: CallID?
    ) async throws(StoreError) {
        try lead()
        guard !request.blocks.isEmpty else { return }
        if let error = memory.withState({ state, _ in state.deletionError() }) { throw error }
        var change = SCMCommand.DeleteBlocks()
        change.blocks = request.blocks
        _ = try await self.change(SCMCommand(.deleteBlocks(change)), for: call)
    }

    func reportCorrupt(_ request: SCMReportCorruptRequest) throws(StoreError) {
        try lead()
        let block = BlockID(request.block)
        logger.error(
            "corrupt replica \(request.replicaIndex) of \(block): \(request.reason)")
        memory.withState { state, _ in
            state.markCorrupt(
                block.containerID, index: Int(request.replicaIndex),
                on: request.hasNode ? Identity128(request.node) : nil)
        }
    }

    func closeContainer(_ id: ContainerID) async throws(StoreError) {
        for _ in 0..<Limits.decisions {
            try lead()
            try await group.readBarrier()
            let found = memory.withState { state, _ in state.containers[id]?.state }
            guard let found else {
                throw StoreError(.noSuchContainer, "there is no container \(id)")
            }
            guard found == .containerOpen else { return }
            var change = SCMCommand.ContainerStateChange()
            change.id = id.rawValue
            change.from = found
            change.state = .containerClosing
            if case .changed = try await self.change(SCMCommand(.containerState(change))) { return }
        }
        throw StoreError(.overloaded, "container \(id) changes all the time: try again later")
    }

    /// No barrier: one that was deposed tells of fewer closings for as long as it does not know;
    /// the next one has datanodes wait for all the delay that writers are given.
    func closings(_ request: SCMClosingsRequest) throws(StoreError) -> SCMClosingsResponse {
        try lead()
        return memory.withState { state, now in state.closings(request, at: now) }
    }

    func status(_ request: SCMStatusRequest) async throws(StoreError) -> SCMStatusResponse {
        try lead()
        try await group.readBarrier()
        return memory.withState { state, now in state.report(request, at: now) }
    }

    /// What is missing, by replication.
    func safety() async throws(StoreError) -> SCMSafetyResponse {
        try lead()
        try await group.readBarrier()
        return memory.withState { state, now in state.safety(at: now) }
    }

    private func exclusively<R: Sendable>(
        _ body: () async throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        // Looked at once more where the continuation is kept: the call may leave the actor for a
        // moment, in which the one who is waited for can end without seeing who waits.
        while isChanging {
            await withCheckedContinuation { changer in
                if isChanging { changers.append(changer) } else { changer.resume() }
            }
        }
        isChanging = true
        defer {
            isChanging = false
            let waiting = changers
            changers = []
            for changer in waiting { changer.resume() }
        }
        return try await body()
    }
}

/// Lets a generator of any type be passed as one of a certain type.
struct AnyGenerator: RandomNumberGenerator {
    var base: any RandomNumberGenerator & Sendable
    mutating func next() -> UInt64 { base.next() }
}
