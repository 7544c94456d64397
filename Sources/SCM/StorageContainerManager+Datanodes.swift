import Logging
import Model
import RaftDriver
import Reactor
import SCMCore
import Wire

// What datanodes say, and what they are told.

extension StorageContainerManager {
    func register(
        _ request: SCMRegisterRequest
    ) async throws(StoreError) -> SCMRegisterResponse {
        guard let address = try DatanodeAddress(request.address) else {
            throw StoreError(.badRequest, "a datanode registers with its identity")
        }
        guard let cluster else {
            throw StoreError(
                .notReady, "the cluster has no identity yet; the SCM that leads gives it one")
        }
        if request.hasCluster, Identity128(request.cluster) != cluster {
            throw StoreError(
                .invalidArgument,
                "datanode \(address) belongs to cluster \(Identity128(request.cluster)), "
                    + "this is cluster \(cluster); point it at its own SCM or give it empty volumes"
            )
        }
        try checkIdentity(of: address)
        let isLogged = memory.withState { state, _ in
            state.nodes[address.id]?.address == address
        }
        if !isLogged, takesLead() {
            var change = SCMCommand.Node()
            change.address = request.address
            _ = try await self.change(SCMCommand(.node(change)))
            // Another one may have come meanwhile.
            try checkIdentity(of: address)
        }
        let (isTaken, lost) = memory.withState { state, now in
            let isTaken = state.registered(
                address, volumes: request.volumes, replicas: request.replicas,
                store: request.store, epoch: request.epoch, at: now)
            state.updateSafeMode(at: now)
            return (isTaken, state.lostReplicas(of: address.id, at: now))
        }
        guard isTaken else {
            throw StoreError(
                .notReady, "datanode \(address) is not logged yet, and too many others are not")
        }
        logger.info("datanode \(address) registered with \(request.replicas.count) replicas")
        if lost > 0 {
            logger.error(
                "datanode \(address) lacks \(lost) replicas that it had or may have had")
        }
        var response = SCMRegisterResponse()
        response.cluster = cluster.message
        let (seconds, attoseconds) = options.heartbeat.components
        response.heartbeatMilliseconds = UInt32(
            seconds * 1000 + attoseconds / 1_000_000_000_000_000)
        let leadership = standing()
        response.term = leadership.term
        response.leading = leadership.isLeading ? .leads : .follows
        response.scms = addresses
        return response
    }

    /// Throws `conflict`, with a word in the log, where another datanode has the identity.
    private func checkIdentity(of address: DatanodeAddress) throws(StoreError) {
        let conflict = memory.withState { state, now in
            state.identityConflict(of: address, at: now)
        }
        guard let conflict else {
            doubles.remove(address)
            return
        }
        if doubles.count >= SCMState.Limits.newcomers { doubles = [] }
        if doubles.insert(address).inserted { logger.error("\(conflict.message)") }
        throw conflict
    }

    /// Answers from memory alone: a datanode that waited for SCM's disk would be late with its next
    /// heartbeat.
    ///
    /// A member that does not lead takes what the datanode has, and leaves it what it did: it tells
    /// that to the one that leads.
    func heartbeat(_ request: SCMHeartbeatRequest) -> SCMHeartbeatResponse {
        let id = Identity128(request.id)
        let leadership = standing()
        let isLeading = leadership.isLeading
        var response = SCMHeartbeatResponse()
        response.term = leadership.term
        response.leading = isLeading ? .leads : .follows
        response.scms = addresses
        var healed: [SCMState.HealEnd] = []
        let (commands, done, slow) = memory.withState {
            state, now -> ([SCMDatanodeCommand], [UInt64], [String]) in
            guard !isLeading || !state.mustBeLogged(id),
                state.heard(
                    id, volumes: request.volumes, replicas: request.replicas,
                    isFull: request.isFull, store: request.store, epoch: request.epoch, at: now)
            else {
                var command = SCMDatanodeCommand()
                command.registerAgain = true
                return ([command], isLeading ? request.doneCommands : [], [])
            }
            guard isLeading else {
                state.heard(id, failed: [], unreclaimed: request.unreclaimedBlocks, at: now)
                return ([], [], [])
            }
            state.heard(
                id, failed: request.failedCommands, unreclaimed: request.unreclaimedBlocks,
                at: now)
            let absent = state.heard(id, absent: request.absentCommands, at: now)
            healed = state.heard(id, heals: request.heals, at: now)
            return (
                state.commands(for: id, at: now), request.doneCommands + absent,
                state.avoidedVolumes(of: id)
            )
        }
        for end in healed { tell(end) }
        confirm(done, by: id)
        response.commands = commands
        response.slowVolumes = slow
        return response
    }

    private func tell(_ end: SCMState.HealEnd) {
        let name = "replica \(end.index) of container \(end.container) on \(end.node)"
        if let failure = end.failure {
            logger.warning("\(name) could not be healed, it is to be rebuilt: \(failure)")
        } else if end.wasWhole {
            let text =
                "\(name) is whole, though a reader found it damaged: the reader's way to it, or its "
                + "memory, may be at fault"
            logger.warning("\(text)")
        } else {
            logger.info("\(name) is whole again: \(end.bytes) bytes were written anew")
        }
    }

    /// Has the log say what datanodes have deleted. Should this member die or be deposed before
    /// that, they are told again by the next that leads.
    func confirm(_ numbers: [UInt64], by id: DatanodeID) {
        guard !numbers.isEmpty else { return }
        confirmed[id, default: []] += numbers
        guard !isConfirming else { return }
        Task(executorPreference: reactor) { await self.logConfirmed() }
    }

    func logConfirmed() async {
        guard !isConfirming else { return }
        isConfirming = true
        defer { isConfirming = false }
        while let (id, numbers) = confirmed.popFirst() {
            var change = SCMCommand.DeletedOn()
            change.node = id.message
            change.transactions = numbers
            do throws(StoreError) {
                _ = try await self.change(SCMCommand(.deletedOn(change)))
            } catch {
                guard takesLead() else {
                    // Whoever leads tells them all anew.
                    confirmed = [:]
                    return
                }
                logger.warning("what \(id) has deleted is logged later: \(error)")
                confirmed[id, default: []] += numbers
                return
            }
        }
    }
}
