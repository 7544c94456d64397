import Chance

@testable import Raft

/// A group under chance: messages lost, doubled and reordered, members that crash and come back
/// with what was written, changes of members, transfers, compaction and snapshots.
///
/// After each step: no two leaders in a term, and no two members that applied different entries
/// at an index.
final class RandomGroup {
    struct Violation: Error { var what: String }

    private var generator: SeededGenerator
    private var nodes: [InteractionNode] = []
    private var messages: [Message] = []
    /// Members that nobody hears and that hear nobody.
    private var cut: Set<PeerID> = []
    private var leaders: [Term: PeerID] = [:]
    private var applied: [LogIndex: Entry] = [:]
    private var proposals = 0
    private(set) var committed: LogIndex = 0
    private(set) var elections = 0
    private(set) var snapshots = 0
    private(set) var changes = 0
    private(set) var reads = 0
    private let configuration: Configuration
    /// The highest index applied anywhere when each read was asked for.
    private var readFloors: [[UInt8]: LogIndex] = [:]

    init(seed: UInt64, size: Int) throws {
        generator = SeededGenerator(seed: seed)
        var configuration = Configuration(id: 1)
        configuration.electionTick = 10
        configuration.asyncStorageWrites = Bool.random(using: &generator)
        configuration.checkQuorum = Bool.random(using: &generator)
        configuration.preVote = Bool.random(using: &generator)
        configuration.stepDownOnRemoval = Bool.random(using: &generator)
        configuration.maxInflightMessages = Int.random(in: 1...8, using: &generator)
        configuration.maxSizePerMessage = Int.random(in: 0...200, using: &generator)
        configuration.maxCommittedSizePerReady = Int.random(in: 1...400, using: &generator)
        if configuration.checkQuorum, Bool.random(using: &generator) {
            configuration.readOnlyOption = .leaseBased
        }
        configuration.tellsCommitLate = Bool.random(using: &generator)
        configuration.sendsQuorumFirst =
            configuration.tellsCommitLate && Bool.random(using: &generator)
        self.configuration = configuration
        let voters = (1...size).map { PeerID(UInt64($0)) }
        let first = Snapshot(
            metadata: SnapshotMetadata(
                confState: ConfState(voters: Array(voters.dropLast())), index: 1, term: 1))
        for voter in voters {
            let isNew = voter == voters.last
            nodes.append(
                try InteractionNode(
                    settings(for: voter), snapshot: isNew ? Snapshot() : first))
        }
    }

    private func settings(for peer: PeerID) -> Configuration {
        var settings = configuration
        settings.id = peer
        return settings
    }

    private func chance(_ percent: Int) -> Bool {
        Int.random(in: 0..<100, using: &generator) < percent
    }

    /// Does one thing at random.
    func step() throws {
        let position = Int.random(in: nodes.indices, using: &generator)
        switch Int.random(in: 0..<100, using: &generator) {
        case 0..<20: tick(position)
        case 20..<50: try deliver()
        case 50..<75: try process(position)
        case 75..<85: try processThread(position)
        case 85..<93: propose(position)
        case 93: proposeChange(position)
        case 94: read(position)
        case 95:
            nodes[position].node.transferLeader(
                to: PeerID(UInt64.random(in: 1...UInt64(nodes.count), using: &generator)))
        case 99 where chance(20): cut = cut.isEmpty ? [PeerID(UInt64(position + 1))] : []
        case 96: if chance(30) { try restart(position) }
        case 97: compact(position)
        case 98:
            reportSnapshots(position)
            for each in nodes.indices where nodes[each].node.hasRest {
                nodes[each].node.sendRest()
            }
        default: if chance(50) { nodes[position].node.forgetLeader() }
        }
        try check(position)
    }

    /// Clocks are independent, unless leases bound their drift.
    private func tick(_ position: Int) {
        if configuration.readOnlyOption == .safe {
            nodes[position].node.tick()
        } else if position == 0 {
            for each in nodes.indices { nodes[each].node.tick() }
        }
    }

    private func deliver() throws {
        guard !messages.isEmpty else { return }
        let place =
            chance(70) ? 0 : Int.random(in: messages.indices, using: &generator)
        let message = messages[place]
        if !chance(5) { messages.remove(at: place) }
        if chance(5) || cut.contains(message.from) || cut.contains(message.to) { return }
        let position = Int(message.to.rawValue) - 1
        do { try nodes[position].node.step(message) } catch { _ = error }
        try check(position)
    }

    private func process(_ position: Int) throws {
        guard nodes[position].node.hasReady else { return }
        let ready = nodes[position].node.ready()
        if ready.snapshot != nil { snapshots += 1 }
        for state in ready.readStates {
            reads += 1
            guard let floor = readFloors[state.context], state.index < floor else { continue }
            throw Violation(what: "read at \(state.index), \(floor) was applied before")
        }
        if !configuration.asyncStorageWrites, chance(2) {
            // Crashed before anything was written, or before anything was sent.
            if chance(50) {
                try nodes[position].write(ready.hardState, ready.entries, ready.snapshot)
            }
            try restart(position)
            return
        }
        try note(ready.committedEntries)
        messages += try nodes[position].process(ready)
        if !configuration.asyncStorageWrites { nodes[position].node.advance() }
        while messages.count > 400 { messages.removeFirst() }
    }

    private func processThread(_ position: Int) throws {
        if chance(60), !nodes[position].appendWork.isEmpty {
            let work = nodes[position].appendWork.removeFirst()
            try nodes[position].write(work.hardState, work.entries, work.snapshot)
            try respond(work, position)
        } else if !nodes[position].applyWork.isEmpty {
            let work = nodes[position].applyWork.removeFirst()
            try nodes[position].apply(work.entries)
            try respond(work, position)
        }
    }

    /// Answers to itself are never lost.
    private func respond(_ work: Message, _ position: Int) throws {
        for response in work.responses {
            if response.to == nodes[position].configuration.id {
                try nodes[position].node.step(response)
            } else {
                messages.append(response)
            }
        }
    }

    private func note(_ entries: [Entry]) throws {
        for entry in entries {
            if entry.kind != .normal { changes += 1 }
            if let other = applied[entry.index], other != entry {
                throw Violation(what: "\(other) and \(entry) were both applied")
            }
            applied[entry.index] = entry
            committed = max(committed, entry.index)
        }
    }

    private func restart(_ position: Int) throws {
        let old = nodes[position]
        var settings = old.configuration
        settings.applied = old.storage.current.metadata.index
        nodes[position] = try InteractionNode(settings, restarting: old.storage)
    }

    private func propose(_ position: Int) {
        proposals += 1
        let data = [UInt8](repeating: UInt8(truncatingIfNeeded: proposals), count: proposals % 60)
        do { try nodes[position].node.propose(data) } catch { _ = error }
    }

    private func proposeChange(_ position: Int) {
        let kinds: [ConfChangeSingle.Kind] = [.addVoter, .addVoter, .removePeer, .addLearner]
        let count = chance(50) ? 1 : Int.random(in: 0...3, using: &generator)
        var change = ConfChangeV2()
        for _ in 0..<count {
            let peer = UInt64.random(in: 1...UInt64(nodes.count), using: &generator)
            change.changes.append(
                ConfChangeSingle(kinds.randomElement(using: &generator) ?? .addVoter, PeerID(peer)))
        }
        if count > 0, chance(30) { change.transition = .jointExplicit }
        do { try nodes[position].node.proposeConfChange(change) } catch { _ = error }
    }

    private func read(_ position: Int) {
        let context = Array("\(proposals)/\(readFloors.count)".utf8)
        readFloors[context] = applied.keys.max() ?? 0
        do { try nodes[position].node.readIndex(context: context) } catch { _ = error }
    }

    private func compact(_ position: Int) {
        let storage = nodes[position].storage
        let index = storage.current.metadata.index
        guard index > storage.firstIndex, chance(30) else { return }
        do { try storage.log.compact(to: index - 1) } catch { _ = error }
    }

    private func reportSnapshots(_ position: Int) {
        for progress in nodes[position].node.progress where progress.state == .snapshot {
            nodes[position].node.reportSnapshot(progress.peer, chance(50) ? .finished : .failed)
        }
    }

    private func check(_ position: Int) throws {
        let status = nodes[position].node.basicStatus
        if status.softState.role == .leader {
            let term = status.hardState.term
            if leaders[term] == nil { elections += 1 }
            if let other = leaders[term], other != status.id {
                throw Violation(what: "\(other) and \(status.id) both led in term \(term)")
            }
            leaders[term] = status.id
        }
    }
}
