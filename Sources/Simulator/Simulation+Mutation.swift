import Raft

// The defects that the scenario may put in, where they rewrite what passes between a core, its
// disk and its peers. Those of a line or two stand where the right code is.

extension Simulation {
    /// A message as a defective node takes it in; nil if it answers or drops it itself.
    func bent(incoming message: Message, at node: SimulatedNode) -> Message? {
        guard let mutation = scenario.mutation, let (state, role) = node.raft?.observed else {
            return message
        }
        var message = message
        switch (mutation, message.kind) {
        case (.votesWithoutLogCheck, .vote), (.votesWithoutLogCheck, .preVote):
            message.logTerm = 1 << 61
            message.index = 1 << 61
        case (.votesTwice, .vote) where message.term == state.term && role != .leader:
            grant(message, by: node)
            return nil
        case (.leadsOnInHigherTerm, _) where role == .leader && message.term > state.term:
            node.highestTerm = max(node.highestTerm, message.term)
            return nil
        case (.skipsPreviousEntryCheck, .append) where message.index >= state.commit:
            if let term = logTerm(of: message.index, node) { message.logTerm = term }
        case (.acceptsStaleTerm, .append), (.acceptsStaleTerm, .heartbeat):
            if role == .follower, message.term < state.term { message.term = state.term }
        case (.commitsByHeartbeat, .heartbeat) where message.term >= state.term:
            let leader = nodes[Int(message.from.rawValue) - 1]
            message.commit = max(
                message.commit, min(leader.commit, node.raft?.basicStatus.lastIndex ?? 0))
        default: break
        }
        return message
    }

    private func grant(_ message: Message, by node: SimulatedNode) {
        let response = Message(
            .voteResponse, to: message.from, from: node.id, term: message.term)
        queue.push(.arrival(response), after: messageDelay())
    }

    /// The term of an entry that the node has on disk.
    private func logTerm(of index: LogIndex, _ node: SimulatedNode) -> Term? {
        node.outstanding == nil ? node.disk.written.term(of: index) : nil
    }

    /// A message as a defective node sends it.
    func bent(outgoing message: Message, of node: SimulatedNode) -> Message {
        var message = message
        switch scenario.mutation {
        case .leadsOnInHigherTerm where node.role == .leader:
            message.term = max(message.term, node.highestTerm)
        case .acknowledgesRejected where message.kind == .appendResponse && message.reject:
            message.reject = false
            message.rejectHint = 0
            message.logTerm = 0
        default: break
        }
        return message
    }

    /// Whether messages that wait for a write leave when it is issued.
    func acknowledgesEarly(_ write: LogWrite) -> Bool {
        switch scenario.mutation {
        case .acknowledgesBeforeSync: true
        case .acknowledgesSnapshotBeforeSync: write.snapshot != nil
        default: false
        }
    }

    /// A batch as a defective node writes it.
    func bent(_ write: LogWrite, _ node: SimulatedNode) -> LogWrite {
        var write = write
        switch scenario.mutation {
        case .writesHardStateLate:
            if let state = write.hardState { node.heldBack = state }
            write.hardState = nil
            if !write.entries.isEmpty, let state = node.heldBack {
                write.hardState = state
                node.heldBack = nil
            }
        case .keepsConflictingEntries:
            let last = node.disk.written.lastIndex
            if write.snapshot == nil { write.entries.removeAll { $0.index <= last } }
        default: break
        }
        return write
    }

    /// The hard state as a defective node finds it after a crash.
    func bendRecovered(_ state: inout HardState, _ node: SimulatedNode) {
        guard node.incarnation > 0 else { return }
        switch scenario.mutation {
        case .forgetsVote: state.vote = .none
        case .forgetsTerm:
            state.vote = .none
            state.term = node.disk.written.term(of: node.disk.written.lastIndex) ?? 0
        default: break
        }
    }

    /// A checkpoint as a defective node makes it.
    func bend(_ snapshot: inout Snapshot, _ node: SimulatedNode) {
        switch scenario.mutation {
        case .appliesTwice: snapshot.metadata.index -= 1
        case .snapshotsWrongTerm:
            snapshot.metadata.term = node.raft?.observed.0.term ?? snapshot.metadata.term
        case .losesConfiguration: snapshot.metadata.confState = firstMembers
        default: break
        }
    }
}
