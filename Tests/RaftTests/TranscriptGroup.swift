@testable import Raft

/// The commands of the project's own transcripts.
///
/// Members do nothing by themselves: `ready` and `run` do the work of their Readies, `deliver`
/// and `drop` empty the bag of messages, `write` and `apply` are the storage threads.
struct TranscriptGroup {
    private(set) var nodes: [InteractionNode] = []
    private var bag: [Message] = []
    private var lines: [String] = []
    /// Settings of members that join later.
    private var settings = Configuration(id: 1)

    /// Messages that wait to be delivered.
    var waiting: [Message] { bag }

    /// Adds a member as it is.
    mutating func append(_ node: InteractionNode) { nodes.append(node) }

    /// Gives a member a message that was not in the bag.
    mutating func deliver(_ message: Message) -> [String] {
        bag.insert(message, at: 0)
        return answer("deliver \(message.to) kind=\(message.kind)")
    }

    /// What a command answers: nothing if it only did what it was told.
    mutating func answer(_ line: String) -> [String] {
        var words = line.split(separator: " ").map(String.init)[...]
        lines = []
        let isQuiet = words.first == "quietly"
        if isQuiet { words.removeFirst() }
        guard let command = words.popFirst() else { return ["no command"] }
        do {
            try run(command, Arguments(words))
        } catch {
            return ["error: \(error)"]
        }
        return isQuiet ? [] : lines
    }

    struct Unknown: Error { var command: String }

    /// Words, `key=value`s, and the numbers among the words.
    struct Arguments {
        var words: [String] = []
        var values: [String: String] = [:]

        init(_ all: some Sequence<String>) {
            for word in all {
                let parts = word.split(separator: "=", maxSplits: 1)
                if parts.count == 2 {
                    values[String(parts[0])] = String(parts[1])
                } else {
                    words.append(word)
                }
            }
        }

        var numbers: [Int] { words.compactMap { Int($0) } }
        func number(_ key: String) -> Int? { values[key].flatMap { Int($0) } }
        func peers(_ key: String) -> [PeerID] {
            (values[key] ?? "").split(separator: ",").compactMap { UInt64($0) }.map { PeerID($0) }
        }
    }

    private func positions(_ arguments: Arguments) -> [Int] {
        let named = arguments.numbers.map { $0 - 1 }
        return named.isEmpty ? Array(nodes.indices) : named
    }

    private mutating func run(_ command: String, _ arguments: Arguments) throws {
        let member = (arguments.numbers.first ?? 1) - 1
        switch command {
        case "group": try group(arguments)
        case "join": try join(arguments)
        case "restart": try restart(member)
        case "compact": try nodes[member].storage.log.compact(to: LogIndex(arguments.numbers[1]))
        case "campaign": nodes[member].node.campaign()
        case "timeout": nodes[member].node.core.randomizedElectionTimeout = arguments.numbers[1]
        case "tick":
            let count = arguments.numbers.dropFirst().first ?? 1
            for _ in 0..<count { nodes[member].node.tick() }
        case "rest": nodes[member].node.sendRest()
        case "propose": try propose(member, arguments)
        case "change": try change(member, arguments)
        case "read": try nodes[member].node.readIndex(context: Array(arguments.words[1].utf8))
        case "transfer":
            nodes[member].node.transferLeader(to: PeerID(UInt64(arguments.numbers[1])))
        case "forget": nodes[member].node.forgetLeader()
        case "unreachable":
            nodes[member].node.reportUnreachable(PeerID(UInt64(arguments.numbers[1])))
        case "sent-snapshot":
            nodes[member].node.reportSnapshot(
                PeerID(UInt64(arguments.numbers[1])),
                arguments.words.last == "failed" ? .failed : .finished)
        case "ready", "write", "apply", "deliver", "drop", "run":
            try work(command, arguments)
        case "log", "members", "progress", "applied", "bag": try show(command, member)
        default: throw Unknown(command: command)
        }
    }
}

// MARK: - Members

extension TranscriptGroup {
    private mutating func group(_ arguments: Arguments) throws {
        nodes = []
        bag = []
        settings = Configuration(id: 1)
        settings.electionTick = arguments.number("election") ?? 10
        settings.heartbeatTick = arguments.number("heartbeat") ?? 1
        settings.asyncStorageWrites = arguments.words.contains("async")
        settings.checkQuorum = arguments.words.contains("check-quorum")
        settings.preVote = arguments.words.contains("pre-vote")
        settings.tellsCommitLate = arguments.words.contains("late-commit")
        settings.sendsQuorumFirst = arguments.words.contains("quorum-first")
        settings.stepDownOnRemoval = arguments.words.contains("step-down")
        settings.disableProposalForwarding = arguments.words.contains("no-forward")
        settings.disableConfChangeValidation = arguments.words.contains("no-validation")
        if arguments.words.contains("lease") {
            settings.checkQuorum = true
            settings.readOnlyOption = .leaseBased
        }
        settings.maxInflightMessages = arguments.number("inflight") ?? 256
        settings.maxSizePerMessage = arguments.number("per-message") ?? 1 << 20
        settings.maxInflightBytes = arguments.number("inflight-bytes") ?? 0
        settings.maxUncommittedSize = arguments.number("uncommitted") ?? 1 << 30
        settings.maxCommittedSizePerReady = arguments.number("applying") ?? 1 << 20
        let members = ConfState(
            voters: arguments.peers("voters"), learners: arguments.peers("learners"))
        let index = LogIndex(arguments.number("at") ?? 10)
        let first = Snapshot(
            metadata: SnapshotMetadata(confState: members, index: index, term: 1))
        for _ in 0..<(members.voters + members.learners).count { try add(first) }
    }

    private mutating func add(_ snapshot: Snapshot) throws {
        var configuration = settings
        configuration.id = PeerID(UInt64(nodes.count + 1))
        nodes.append(try InteractionNode(configuration, snapshot: snapshot))
    }

    private mutating func join(_ arguments: Arguments) throws {
        for _ in 0..<(arguments.number("count") ?? 1) { try add(Snapshot()) }
    }

    private mutating func restart(_ member: Int) throws {
        let old = nodes[member]
        var configuration = old.configuration
        configuration.applied = old.storage.current.metadata.index
        nodes[member] = try InteractionNode(configuration, restarting: old.storage)
        bag.removeAll { $0.to == configuration.id && $0.from == configuration.id }
    }

    private mutating func propose(_ member: Int, _ arguments: Arguments) throws {
        if let size = arguments.number("size") {
            try nodes[member].node.propose([UInt8](repeating: 120, count: size))
        } else {
            let entries = arguments.words.dropFirst().map { Entry(data: Array($0.utf8)) }
            try nodes[member].node.propose(entries)
        }
    }

    private mutating func change(_ member: Int, _ arguments: Arguments) throws {
        let text = arguments.words.dropFirst().filter { word in
            !["single", "implicit", "explicit", "leave"].contains(word)
        }.joined(separator: " ")
        let changes = ConfChangeCommands.changes(text) ?? []
        if arguments.words.contains("single") {
            try nodes[member].node.proposeConfChange(
                ConfChange(changes[0].kind, changes[0].peer))
            return
        }
        var change = ConfChangeV2(changes: changes)
        if arguments.words.contains("implicit") { change.transition = .jointImplicit }
        if arguments.words.contains("explicit") { change.transition = .jointExplicit }
        try nodes[member].node.proposeConfChange(change)
    }
}

// MARK: - Work

extension TranscriptGroup {
    private mutating func work(_ command: String, _ arguments: Arguments) throws {
        let kind = arguments.values["kind"].flatMap { name in
            MessageKind.allCases.first { "\($0)" == name }
        }
        switch command {
        case "ready": for member in positions(arguments) { try ready(member) }
        case "write": for member in positions(arguments) { try thread(member, \.appendWork) }
        case "apply": for member in positions(arguments) { try thread(member, \.applyWork) }
        case "deliver":
            for member in positions(arguments) { deliver(to: member, kind, dropping: false) }
        case "drop":
            for member in positions(arguments) { deliver(to: member, kind, dropping: true) }
        default: try runAll(positions(arguments))
        }
    }

    private mutating func ready(_ member: Int) throws {
        let ready = nodes[member].node.ready()
        let refusals = nodes[member].refusals.count
        for line in TranscriptText.ready(ready) { lines.append("\(member + 1): \(line)") }
        bag += try nodes[member].process(ready)
        for refusal in nodes[member].refusals[refusals...] {
            lines.append("\(member + 1): change left out: \(refusal)")
        }
        if !nodes[member].configuration.asyncStorageWrites { nodes[member].node.advance() }
    }

    private mutating func thread(
        _ member: Int, _ work: WritableKeyPath<InteractionNode, [Message]>
    ) throws {
        guard !nodes[member][keyPath: work].isEmpty else {
            lines.append("\(member + 1): nothing to do")
            return
        }
        let message = nodes[member][keyPath: work].removeFirst()
        if message.kind == .storageAppend {
            try nodes[member].write(message.hardState, message.entries, message.snapshot)
        } else {
            try nodes[member].apply(message.entries)
        }
        var shown = message
        shown.responses = []
        lines.append("\(member + 1): did \(TranscriptText.message(shown))")
        bag += message.responses
    }

    /// Messages of a member's own storage threads are never lost.
    private func takes(_ message: Message, _ member: Int, _ kind: MessageKind?, _ drop: Bool)
        -> Bool
    {
        message.to == PeerID(UInt64(member + 1)) && (kind == nil || message.kind == kind)
            && !(drop && message.from.isStorageThread)
    }

    private mutating func deliver(to member: Int, _ kind: MessageKind?, dropping: Bool) {
        let all = bag
        bag = all.filter { !takes($0, member, kind, dropping) }
        for message in all where takes(message, member, kind, dropping) {
            lines.append((dropping ? "lost " : "") + TranscriptText.message(message))
            if dropping { continue }
            do {
                try nodes[member].node.step(message)
            } catch {
                lines.append("error: \(error)")
            }
        }
    }

    /// Readies, messages and threads of some members until nothing is left to do.
    private mutating func runAll(_ members: [Int]) throws {
        var isDone = false
        while !isDone {
            isDone = true
            for member in members where nodes[member].node.hasReady {
                try ready(member)
                isDone = false
            }
            for member in members where bag.contains(where: { takes($0, member, nil, false) }) {
                deliver(to: member, nil, dropping: false)
                isDone = false
            }
            for member in members {
                while !nodes[member].appendWork.isEmpty {
                    try thread(member, \.appendWork)
                    isDone = false
                }
                while !nodes[member].applyWork.isEmpty {
                    try thread(member, \.applyWork)
                    isDone = false
                }
            }
        }
    }

    private mutating func show(_ command: String, _ member: Int) throws {
        switch command {
        case "log":
            let log = nodes[member].storage.log
            let entries = try log.entries(
                from: log.firstIndex, to: log.lastIndex + 1, maxSize: .max)
            lines.append(
                "\(member + 1): after \(log.firstIndex - 1) "
                    + TranscriptText.entries(entries))
        case "members":
            for node in nodes {
                let status = node.node.status
                let id = status.basic.id
                lines.append(
                    "\(id): \(status.basic.softState.role) in \(status.basic.hardState.term), "
                        + "leader \(status.basic.softState.leader), "
                        + "commit \(status.basic.hardState.commit), "
                        + TranscriptText.members(status.members))
            }
        case "progress":
            for progress in nodes[member].node.status.progress {
                lines.append("\(progress.peer): \(progress)")
            }
        case "applied":
            lines.append("\(member + 1): \(TranscriptText.entries(nodes[member].appliedEntries))")
        default:
            for message in bag { lines.append(TranscriptText.message(message)) }
        }
    }
}
