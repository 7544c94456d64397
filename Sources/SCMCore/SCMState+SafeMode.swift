import Model
import Wire

// Safe mode: what a member waits for before it gives out blocks or judges containers. It ends by
// what was heard, not by time: a member that has listened as a follower is out of it when it begins
// to lead.

extension SCMState {
    /// Why SCM is in safe mode, or nil once it may leave it.
    ///
    /// - So many datanodes as are configured have been heard of.
    /// - Of 99 % of the closed containers there are enough replicas to read them, or all nodes have
    ///   been heard of that have places: what these have lost nobody waits for.
    /// - The nodes of 99 % of the open containers have been heard of, or were silent for so long
    ///   that they are dead. Before that it would not be known which containers may take blocks,
    ///   and those whose nodes come a moment later would be closed.
    ///
    /// O(containers).
    public func safeModeReason(at now: UInt64) -> String? {
        safeModeReason(at: now, stopsEarly: false)
    }

    /// - Parameter stopsEarly: that there is a reason is enough, whatever it says: it costs what is not
    ///   there yet, up to the hundredth part that is waited for.
    private func safeModeReason(at now: UInt64, stopsEarly: Bool) -> String? {
        let most = containers.count / 100
        let heard = nodes.values.count { $0.lastHeartbeat != nil }
        guard heard >= options.minimumDatanodes else {
            return "\(heard) of at least \(options.minimumDatanodes) datanodes have registered"
        }
        var closed = 0
        var complete = 0
        var open = 0
        var known = 0
        for container in containers.values {
            switch container.state {
            case .containerClosed:
                closed += 1
                // Others may never have held a block, and so have no replica.
                if knownReplicas(container) >= container.replication.minimumReplicas
                    || !mayYetBeHeard(container, at: now)
                {
                    complete += 1
                }
                if stopsEarly, closed - complete > most { return "replicas are missing" }
            case .containerOpen:
                open += 1
                if !isWaitedFor(container, at: now) { known += 1 }
                if stopsEarly, open - known > most { return "datanodes are missing" }
            case .containerClosing, .containerDeleting, .containerDeleted, .UNRECOGNIZED: continue
            }
        }
        guard complete * 100 >= closed * 99 else {
            return "\(complete) of \(closed) containers have enough replicas reported"
        }
        guard known * 100 >= open * 99 else {
            return "the datanodes of \(known) of \(open) open containers have registered, or been "
                + "silent for \(options.deadAfterNanoseconds / 1_000_000_000) s"
        }
        return nil
    }

    /// Whether a node of the container is not heard of, and may yet be.
    private func isWaitedFor(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.contains { $0.map { state(of: $0, at: now) == .unheard } ?? false }
    }

    /// Whether a node of the container is silent: what it has may yet be heard of.
    private func mayYetBeHeard(_ container: Container, at now: UInt64) -> Bool {
        container.nodes.indices.contains { place in
            switch presence(of: place, in: container, at: now) {
            case .unheard, .silent: true
            case .unplaced, .here, .empty, .lost, .doubtful, .unmade: false
            }
        }
    }

    /// Replicas that were reported, or are known to be empty.
    private func knownReplicas(_ container: Container) -> Int {
        container.nodes.indices.count { place in
            guard let id = container.nodes[place], let node = nodes[id],
                node.lastHeartbeat != nil, replica(of: container, at: place) != nil
            else { return container.empty.contains(place + 1) }
            return true
        }
    }

    public mutating func updateSafeMode(at now: UInt64) {
        guard isInSafeMode, safeModeReason(at: now, stopsEarly: true) == nil else { return }
        isInSafeMode = false
    }

    public mutating func leaveSafeMode() { isInSafeMode = false }
}
