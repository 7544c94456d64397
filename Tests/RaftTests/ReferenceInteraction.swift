@testable import Raft

/// The commands of the `interaction/` files: members, a bag of messages between them, and the
/// work of their storage threads, all done only when a command says so.
struct ReferenceInteraction {
    private(set) var nodes: [InteractionNode] = []
    private var messages: [Message] = []
    private var output = ""
    private var indent = ""
    private var isQuiet = false

    /// What the file expects, without the log lines of the original.
    mutating func answer(_ check: DataDrivenCase) -> String {
        output = ""
        indent = ""
        var failure: String?
        let wasQuiet = isQuiet
        if check.value("log-level") != nil { isQuiet = check.value("log-level") == "none" }
        do { try run(check) } catch { failure = Self.text(error) }
        let quiet = isQuiet
        if check.value("log-level") != nil { isQuiet = wasQuiet }
        if let failure { output += failure + "\n" }
        if quiet { return failure ?? "ok" }
        return output.isEmpty ? "ok" : output
    }

    private static func text(_ error: any Error) -> String {
        switch error {
        case RaftError.proposalDropped: "raft proposal dropped"
        case RaftError.stepLocal: "raft: cannot step raft local message"
        case RaftError.stepPeerNotFound: "raft: cannot step as peer not found"
        default: "\(error)"
        }
    }

    private mutating func write(_ text: String) {
        for line in text.split(separator: "\n", omittingEmptySubsequences: false)
        where !line.isEmpty {
            output += indent + line + "\n"
        }
    }

    private mutating func indented(_ body: (inout Self) throws -> Void) rethrows {
        indent += "  "
        defer { indent.removeLast(2) }
        try body(&self)
    }

    /// The members a command names, all if it names none.
    private func positions(_ check: DataDrivenCase) -> [Int] {
        let named = check.bare.compactMap { Int($0) }.map { $0 - 1 }
        return named.isEmpty ? Array(nodes.indices) : named
    }

    private mutating func run(_ check: DataDrivenCase) throws {
        let first = check.bare.first.flatMap { Int($0) }.map { $0 - 1 } ?? 0
        switch check.command {
        case "_breakpoint": break
        case "add-nodes": try addNodes(check)
        case "campaign": nodes[first].node.campaign()
        case "compact":
            try nodes[first].storage.log.compact(to: LogIndex(check.bare[1]) ?? 0)
            raftLog(first)
        case "deliver-msgs": deliver(check)
        case "forget-leader": nodes[first].node.forgetLeader()
        case "log-level": isQuiet = check.bare.first == "none"
        case "process-append-thread": try processThreads(check, \.appendWork, "append")
        case "process-apply-thread": try processThreads(check, \.applyWork, "apply")
        case "process-ready": try processReadies(check)
        case "propose": try nodes[first].node.propose(Array(check.bare[1].utf8))
        case "propose-conf-change": try proposeConfChange(check, first)
        case "raft-log": raftLog(first)
        case "raft-state": raftState()
        case "report-unreachable":
            nodes[first].node.reportUnreachable(PeerID(UInt64(check.bare[1]) ?? 0))
        case "send-snapshot": sendSnapshot(check)
        case "set-randomized-election-timeout":
            nodes[first].node.core.randomizedElectionTimeout =
                check.value("timeout").flatMap { Int($0) } ?? 0
        case "stabilize": try stabilize(positions(check))
        case "status": status(first)
        case "tick-election": tick(first, nodes[first].configuration.electionTick)
        case "tick-heartbeat": tick(first, nodes[first].configuration.heartbeatTick)
        case "transfer-leadership":
            let from = Int(check.value("from") ?? "") ?? 1
            let to = UInt64(check.value("to") ?? "") ?? 0
            nodes[from - 1].node.transferLeader(to: PeerID(to))
        default: write("unknown command \(check.command)")
        }
    }
}

// MARK: - Commands

extension ReferenceInteraction {
    private mutating func addNodes(_ check: DataDrivenCase) throws {
        func peers(_ key: String) -> [PeerID] {
            (check.values(key) ?? []).compactMap { UInt64($0) }.map { PeerID($0) }
        }
        func flag(_ key: String) -> Bool { check.value(key) == "true" }
        func number(_ key: String) -> Int? { check.value(key).flatMap { Int($0) } }
        let members = ConfState(voters: peers("voters"), learners: peers("learners"))
        let index = LogIndex(number("index") ?? 0)
        let snapshot = Snapshot(
            metadata: SnapshotMetadata(confState: members, index: index, term: index > 0 ? 1 : 0),
            data: Array((check.value("content") ?? "").utf8))
        for _ in 0..<(check.bare.first.flatMap { Int($0) } ?? 0) {
            var configuration = Configuration(id: PeerID(UInt64(nodes.count + 1)))
            configuration.electionTick = 3
            configuration.heartbeatTick = 1
            configuration.maxSizePerMessage = .max
            configuration.maxCommittedSizePerReady = number("max-committed-size-per-ready") ?? .max
            configuration.maxUncommittedSize = .max
            configuration.maxInflightMessages = number("inflight") ?? Int(Int32.max)
            configuration.asyncStorageWrites = flag("async-storage-writes")
            configuration.preVote = flag("prevote")
            configuration.checkQuorum = flag("checkquorum")
            configuration.stepDownOnRemoval = flag("step-down-on-removal")
            configuration.disableConfChangeValidation = flag("disable-conf-change-validation")
            if check.value("read-only") == "lease-based" {
                configuration.readOnlyOption = .leaseBased
            }
            nodes.append(try InteractionNode(configuration, snapshot: snapshot))
        }
    }

    private mutating func tick(_ position: Int, _ count: Int) {
        for _ in 0..<count { nodes[position].node.tick() }
    }

    private mutating func proposeConfChange(_ check: DataDrivenCase, _ position: Int) throws {
        let changes = ConfChangeCommands.changes(check.input) ?? []
        if check.value("v1") == "true" {
            try nodes[position].node.proposeConfChange(
                ConfChange(changes[0].kind, changes[0].peer))
            return
        }
        let transition: ConfChangeV2.Transition =
            switch check.value("transition") {
            case "implicit": .jointImplicit
            case "explicit": .jointExplicit
            default: .auto
            }
        try nodes[position].node.proposeConfChange(
            ConfChangeV2(transition: transition, changes: changes))
    }

    private mutating func raftLog(_ position: Int) {
        let log = nodes[position].storage.log
        if log.lastIndex < log.firstIndex {
            write("log is empty: first index=\(log.firstIndex), last index=\(log.lastIndex)")
            return
        }
        let entries = try? log.entries(
            from: log.firstIndex, to: log.lastIndex + 1, maxSize: .max)
        for entry in entries ?? [] { write(ReferenceText.entry(entry)) }
    }

    private mutating func raftState() {
        for node in nodes {
            let status = node.node.status
            let id = status.basic.id
            write(
                "\(id): \(ReferenceText.role(status.basic.softState.role)) "
                    + "(\(status.isVoter(id) ? "Voter" : "Non-Voter")) "
                    + "Term:\(status.basic.hardState.term) "
                    + "Lead:\(status.basic.softState.leader)")
        }
    }

    private mutating func status(_ position: Int) {
        for progress in nodes[position].node.status.progress {
            write("\(progress.peer): \(progress)")
        }
    }

    private mutating func sendSnapshot(_ check: DataDrivenCase) {
        let from = Int(check.bare[0]) ?? 1
        let node = nodes[from - 1]
        let message = Message(
            .snapshot, to: PeerID(UInt64(check.bare[1]) ?? 0), from: PeerID(UInt64(from)),
            term: node.node.basicStatus.hardState.term, snapshot: node.storage.current)
        messages.append(message)
        write(ReferenceText.message(message))
    }

    private mutating func deliver(_ check: DataDrivenCase) {
        let kind = check.value("type").flatMap { name in
            MessageKind.allCases.first { ReferenceText.kind($0) == name }
        }
        var count = 0
        for argument in check.arguments {
            if let peer = UInt64(argument.key) {
                count += deliver(to: PeerID(peer), kind, dropping: false)
            } else if argument.key == "drop" {
                for peer in argument.values.compactMap({ UInt64($0) }) {
                    count += deliver(to: PeerID(peer), kind, dropping: true)
                }
            }
        }
        if count == 0 { write("no messages") }
    }

    private func isFor(_ message: Message, _ peer: PeerID, _ kind: MessageKind?, _ drop: Bool)
        -> Bool
    {
        message.to == peer && (kind == nil || message.kind == kind)
            && !(drop && message.from.isStorageThread)
    }

    @discardableResult
    private mutating func deliver(
        to peer: PeerID, _ kind: MessageKind?, dropping: Bool
    ) -> Int {
        let bag = messages
        let taken = bag.filter { isFor($0, peer, kind, dropping) }
        messages = bag.filter { !isFor($0, peer, kind, dropping) }
        for message in taken {
            write((dropping ? "dropped: " : "") + ReferenceText.message(message))
            if dropping { continue }
            do {
                try nodes[Int(peer.rawValue) - 1].node.step(message)
            } catch {
                write(Self.text(error))
            }
        }
        return taken.count
    }
}

// MARK: - Work

extension ReferenceInteraction {
    private mutating func processReadies(_ check: DataDrivenCase) throws {
        let positions = positions(check)
        for position in positions {
            if positions.count == 1 {
                try processReady(position)
            } else {
                write("> \(position + 1) handling Ready")
                try indented { try $0.processReady(position) }
            }
        }
    }

    private mutating func processReady(_ position: Int) throws {
        let ready = nodes[position].node.ready()
        write(ReferenceText.ready(ready))
        messages += try nodes[position].process(ready)
        if !nodes[position].configuration.asyncStorageWrites { nodes[position].node.advance() }
    }

    private mutating func processThreads(
        _ check: DataDrivenCase, _ work: WritableKeyPath<InteractionNode, [Message]>,
        _ name: String
    ) throws {
        let positions = positions(check)
        for position in positions {
            if positions.count == 1 {
                try processThread(position, work, name)
            } else {
                write("> \(position + 1) processing \(name) thread")
                try indented { try $0.processThread(position, work, name) }
            }
        }
    }

    private mutating func processThread(
        _ position: Int, _ work: WritableKeyPath<InteractionNode, [Message]>, _ name: String
    ) throws {
        guard !nodes[position][keyPath: work].isEmpty else {
            write("no \(name) work to perform")
            return
        }
        var message = nodes[position][keyPath: work].removeFirst()
        let responses = message.responses
        message.responses = []
        write("Processing:")
        write(ReferenceText.message(message))
        if message.kind == .storageAppend {
            try nodes[position].write(message.hardState, message.entries, message.snapshot)
        } else {
            try nodes[position].apply(message.entries)
        }
        write("Responses:")
        for response in responses { write(ReferenceText.message(response)) }
        messages += responses
    }

    private mutating func stabilize(_ positions: [Int]) throws {
        var isDone = false
        while !isDone {
            isDone = true
            for position in positions where nodes[position].node.hasReady {
                write("> \(position + 1) handling Ready")
                try indented { try $0.processReady(position) }
                isDone = false
            }
            for position in positions {
                let peer = PeerID(UInt64(position + 1))
                guard messages.contains(where: { $0.to == peer }) else { continue }
                write("> \(peer) receiving messages")
                indented { $0.deliver(to: peer, nil, dropping: false) }
                isDone = false
            }
            for (work, name) in [(\InteractionNode.appendWork, "append"), (\.applyWork, "apply")] {
                for position in positions where !nodes[position][keyPath: work].isEmpty {
                    write("> \(position + 1) processing \(name) thread")
                    while !nodes[position][keyPath: work].isEmpty {
                        try indented { try $0.processThread(position, work, name) }
                    }
                    isDone = false
                }
            }
        }
    }
}
