import Raft

/// Watches all nodes from outside and says at each step whether Raft's properties hold.
///
/// It remembers every entry that any node ever had (index, term, digest, and the term before it),
/// every entry that was committed and the state after it. So each check costs only as much as the
/// step changed: two logs need never be compared with one another.
struct SafetyChecker {
    /// An entry as some node had it, found again by its index and term.
    private struct KnownEntry {
        var term: Term
        var previousTerm: Term
        var digest: UInt64
    }

    private struct CommittedEntry {
        var term: Term
        var digest: UInt64
        /// The term of the node that was first known to hold it as committed.
        var commitTerm: Term
        var stateDigest: UInt64?
        var confState: ConfState?
    }

    /// A node as it was seen last.
    private struct Seen {
        var hardState = HardState()
        var role = Role.follower
        var isUp = false
        /// Terms of its log, as far as the core gave them out to be written: from `first` on.
        var first: LogIndex = 1
        var terms: [Term] = []
        /// The commit index as of its last Ready.
        var commit: LogIndex = 0
        var durable = HardState()
        var needsCompleteness = false

        func term(of index: LogIndex) -> Term? {
            guard index >= first, index < first + LogIndex(terms.count) else { return nil }
            return terms[Int(index - first)]
        }
    }

    private let properties: Set<Property>
    /// The entries that name the first members: a node that has them anew knows all of these from
    /// the start, one that replays them learns of one after another.
    private let foundingEntries: LogIndex
    private var known: [[KnownEntry]] = []
    private var committed: [CommittedEntry] = []
    private var leaders: [Term: PeerID] = [:]
    private var nodes: [Seen]
    private(set) var elections = 0
    /// The configuration that the highest committed change left behind.
    private(set) var confState: ConfState
    private(set) var confIndex: LogIndex = 0

    init(nodes count: Int, properties: Set<Property>, start: Snapshot?, confState: ConfState) {
        self.properties = properties
        foundingEntries = start == nil ? LogIndex(confState.voters.count) : 0
        nodes = [Seen](repeating: Seen(), count: count)
        self.confState = confState
        guard let start else { return }
        let filler = CommittedEntry(term: 0, digest: 0, commitTerm: 0)
        committed = [CommittedEntry](repeating: filler, count: Int(start.metadata.index))
        committed[committed.count - 1].term = start.metadata.term
        committed[committed.count - 1].commitTerm = start.metadata.term
        confIndex = start.metadata.index
    }

    /// The highest index that any node holds as committed.
    var commit: LogIndex { LogIndex(committed.count) }

    /// The digest of the application after the entry at `index`, once any node applied it.
    func stateDigest(at index: LogIndex) -> UInt64? {
        index > 0 && index <= commit ? committed[Int(index) - 1].stateDigest : nil
    }

    private func require(
        _ holds: Bool, _ property: Property, _ detail: @autoclosure () -> String
    ) throws(Violation) {
        if !holds, properties.contains(property) {
            throw Violation(property: property, detail: detail())
        }
    }
}

// MARK: What a node is

extension SafetyChecker {
    /// A node begins with what its disk holds.
    mutating func started(
        _ id: PeerID, _ image: LogImage, hardState: HardState
    ) throws(Violation) {
        let place = Int(id.rawValue) - 1
        var seen = Seen()
        seen.isUp = true
        seen.hardState = hardState
        seen.commit = hardState.commit
        seen.durable = image.hardState
        seen.first = image.base.index
        seen.terms = [image.base.term] + image.entries.map(\.term)
        try compare(nodes[place].durable, image.hardState, id, " on disk")
        nodes[place] = seen
        try require(
            hardState.commit <= image.lastIndex, .hardState,
            "node \(id) finds commit \(hardState.commit) but its log ends at \(image.lastIndex)")
    }

    mutating func stopped(_ id: PeerID) { nodes[Int(id.rawValue) - 1].isUp = false }

    /// The core after a step: cheap, for it is called after each.
    mutating func observe(_ id: PeerID, _ state: HardState, _ role: Role) throws(Violation) {
        let place = Int(id.rawValue) - 1
        let last = nodes[place].hardState
        if state != last {
            try compare(last, state, id, "")
            nodes[place].hardState = state
        }
        guard role == .leader, nodes[place].role != .leader || state.term != last.term else {
            nodes[place].role = role
            return
        }
        nodes[place].role = role
        elections += 1
        if let other = leaders[state.term] {
            try require(
                other == id, .electionSafety,
                "nodes \(other) and \(id) are both leaders of term \(state.term)")
        }
        leaders[state.term] = id
        nodes[place].needsCompleteness = true
    }

    private func compare(
        _ old: HardState, _ new: HardState, _ id: PeerID, _ place: String
    ) throws(Violation) {
        try require(
            new.term >= old.term, .hardState,
            "term of node \(id)\(place) went from \(old.term) to \(new.term)")
        try require(
            new.term > old.term || old.vote == .none || new.vote == old.vote, .hardState,
            "node \(id)\(place) changed its vote in term \(new.term), "
                + "from \(old.vote) to \(new.vote)")
        try require(
            new.commit >= old.commit, .hardState,
            "commit of node \(id)\(place) went from \(old.commit) to \(new.commit)")
    }

    /// The hard state that a disk holds now.
    mutating func durable(_ id: PeerID, _ state: HardState) throws(Violation) {
        try compare(nodes[Int(id.rawValue) - 1].durable, state, id, " on disk")
        nodes[Int(id.rawValue) - 1].durable = state
    }
}

// MARK: Logs

extension SafetyChecker {
    /// What a core wants written: entries, or a snapshot in place of the log, and the commit
    /// index that goes with it.
    mutating func wrote(
        _ id: PeerID, entries: [Entry], snapshot: SnapshotMetadata?, commit: LogIndex?
    ) throws(Violation) {
        let place = Int(id.rawValue) - 1
        if let snapshot {
            try checkSnapshot(id, snapshot)
            nodes[place].first = snapshot.index
            nodes[place].terms = [snapshot.term]
            nodes[place].commit = max(nodes[place].commit, snapshot.index)
        }
        if !entries.isEmpty { try append(id, entries) }
        if let commit, commit > nodes[place].commit { try advance(id, to: commit) }
        if nodes[place].needsCompleteness {
            nodes[place].needsCompleteness = false
            if nodes[place].role == .leader { try checkCompleteness(id) }
        }
    }

    private mutating func append(_ id: PeerID, _ entries: [Entry]) throws(Violation) {
        let place = Int(id.rawValue) - 1
        guard let start = entries.first?.index else { return }
        let end = nodes[place].first + LogIndex(nodes[place].terms.count)
        try require(
            start <= end && start > nodes[place].first, .logMatching,
            "node \(id) writes entries from \(start) to a log of "
                + "\(nodes[place].first)..<\(end): a hole")
        guard start <= end, start > nodes[place].first else { return }
        if start < end {
            try require(
                nodes[place].role != .leader
                    || nodes[place].term(of: start) == entries.first?.term, .leaderAppendOnly,
                "node \(id), leader of term \(nodes[place].hardState.term), rewrites entry \(start)"
            )
            let replaced = min(end - 1, nodes[place].commit)
            if start <= replaced, let new = entries.first {
                try require(
                    nodes[place].term(of: start) == new.term, .stateMachineSafety,
                    "node \(id) replaces entry \(start), which it had committed")
            }
            nodes[place].terms.removeSubrange(Int(start - nodes[place].first)...)
        }
        var previous = nodes[place].terms.last ?? 0
        for (offset, entry) in entries.enumerated() {
            try require(
                entry.index == start + LogIndex(offset), .logMatching,
                "node \(id) writes entry \(entry.index) after \(start + LogIndex(offset) - 1)")
            try remember(id, entry, after: previous)
            nodes[place].terms.append(entry.term)
            previous = entry.term
        }
    }

    /// Log matching: an entry of the same index and term has the same data and the same term
    /// before it wherever it is, and so, by induction, the same log before it.
    private mutating func remember(
        _ id: PeerID, _ entry: Entry, after previous: Term
    ) throws(Violation) {
        try require(
            entry.term >= previous, .logMatching,
            "node \(id) has entry \(entry.index) of term \(entry.term) after term \(previous)")
        let index = Int(entry.index)
        while known.count <= index { known.append([]) }
        let digest = Self.digest(of: entry)
        for other in known[index] where other.term == entry.term {
            try require(
                other.digest == digest && other.previousTerm == previous, .logMatching,
                "entry \(entry.index) of term \(entry.term) of node \(id) follows term "
                    + "\(previous), "
                    + "elsewhere \(other.previousTerm)"
                    + (other.digest == digest ? "" : ", and holds other data"))
            return
        }
        known[index].append(
            KnownEntry(term: entry.term, previousTerm: previous, digest: digest))
    }

    private static func digest(of entry: Entry) -> UInt64 {
        var digest = Digest()
        digest.add(UInt64(entry.kind.rawValue))
        digest.add(entry.data)
        return digest.value
    }

    private mutating func advance(_ id: PeerID, to commit: LogIndex) throws(Violation) {
        let place = Int(id.rawValue) - 1
        for index in (nodes[place].commit + 1)...commit {
            guard let term = nodes[place].term(of: index) else {
                try require(
                    index < nodes[place].first, .stateMachineSafety,
                    "node \(id) commits entry \(index), which it does not have")
                continue
            }
            if index <= self.commit {
                let other = committed[Int(index) - 1]
                try require(
                    other.term == 0 || other.term == term, .stateMachineSafety,
                    "node \(id) commits entry \(index) of term \(term), but that of term "
                        + "\(other.term) is committed")
                continue
            }
            let digest =
                Int(index) < known.count
                ? known[Int(index)].first { $0.term == term }?.digest ?? 0 : 0
            committed.append(
                CommittedEntry(
                    term: term, digest: digest, commitTerm: nodes[place].hardState.term))
        }
        nodes[place].commit = commit
    }

    private func checkSnapshot(_ id: PeerID, _ snapshot: SnapshotMetadata) throws(Violation) {
        try require(
            snapshot.index <= commit, .stateMachineSafety,
            "node \(id) is given a snapshot at \(snapshot.index), but \(commit) is committed")
        guard snapshot.index <= commit, snapshot.index > 0 else { return }
        let entry = committed[Int(snapshot.index) - 1]
        try require(
            entry.term == snapshot.term, .logMatching,
            "node \(id) is given a snapshot at \(snapshot.index) of term \(snapshot.term), but the "
                + "entry's term is \(entry.term)")
    }

    /// Leader completeness, of the last entry that an earlier term committed: by log matching
    /// those before it follow.
    private func checkCompleteness(_ id: PeerID) throws(Violation) {
        let node = nodes[Int(id.rawValue) - 1]
        guard let last = committed.lastIndex(where: { $0.commitTerm < node.hardState.term }) else {
            return
        }
        let index = LogIndex(last + 1)
        guard index >= node.first else { return }
        try require(
            node.term(of: index) == committed[last].term, .leaderCompleteness,
            "node \(id), leader of term \(node.hardState.term), has "
                + "\(node.term(of: index) ?? 0) as "
                + "the term of entry \(index), of which term \(committed[last].term) is committed")
    }
}

// MARK: Applying

extension SafetyChecker {
    /// A node applied an entry: the one after `last`, with this state of application and members.
    mutating func applied(
        _ id: PeerID, _ entry: Entry, after last: LogIndex, stateDigest: UInt64,
        confState: ConfState
    ) throws(Violation) {
        try require(
            entry.index == last + 1, .stateMachineSafety,
            "node \(id) applies entry \(entry.index) after \(last)")
        try require(
            entry.index <= commit, .stateMachineSafety,
            "node \(id) applies entry \(entry.index), but \(commit) is committed")
        guard entry.index <= commit else { return }
        let place = Int(entry.index) - 1
        try require(
            committed[place].term == entry.term
                && committed[place].digest == Self.digest(of: entry),
            .stateMachineSafety,
            "node \(id) applies entry \(entry.index) of term \(entry.term), but that of term "
                + "\(committed[place].term) is committed")
        if let other = committed[place].stateDigest {
            try require(
                other == stateDigest, .stateMachineSafety,
                "node \(id) has another state than others after entry \(entry.index)")
        } else {
            committed[place].stateDigest = stateDigest
        }
        if entry.index < foundingEntries { return }
        if let other = committed[place].confState {
            try require(
                other == confState, .sameConfiguration,
                "node \(id) has \(confState) after entry \(entry.index), others \(other)")
        } else {
            committed[place].confState = confState
            if entry.index > confIndex {
                confIndex = entry.index
                self.confState = confState
            }
        }
    }

    /// A node took its state from a snapshot, or from its own checkpoint.
    func restored(
        _ id: PeerID, at index: LogIndex, stateDigest: UInt64, confState: ConfState
    ) throws(Violation) {
        guard index > 0, index <= commit else { return }
        if let other = committed[Int(index) - 1].stateDigest {
            try require(
                other == stateDigest, .stateMachineSafety,
                "node \(id) restores another state than others had after entry \(index)")
        }
        if index >= foundingEntries, let other = committed[Int(index) - 1].confState {
            try require(
                other == confState, .sameConfiguration,
                "node \(id) restores \(confState) at \(index), others had \(other)")
        }
    }
}

// MARK: Durability

extension SafetyChecker {
    /// A message leaves: what it grants or acknowledges must be on the sender's disk.
    func sent(_ message: Message, _ durable: LogImage) throws(Violation) {
        guard !message.reject, message.term >= durable.hardState.term else { return }
        switch message.kind {
        case .voteResponse:
            try require(
                durable.hardState.term == message.term && durable.hardState.vote == message.to,
                .durablePromise,
                "node \(message.from) grants its vote to \(message.to) in term "
                    + "\(message.term), but its disk has term \(durable.hardState.term), vote \(durable.hardState.vote)"
            )
        case .appendResponse:
            try require(
                durable.hardState.term == message.term && durable.lastIndex >= message.index,
                .durablePromise,
                "node \(message.from) acknowledges entry \(message.index) in term \(message.term), "
                    + "but its disk has term \(durable.hardState.term), entry \(durable.lastIndex)")
        default: break
        }
    }

    /// A leader committed up to `index`, whose entry has its own term, with `members` in force.
    func committed(
        _ id: PeerID, _ index: LogIndex, _ term: Term, _ members: ConfState,
        holds: (PeerID) -> Bool
    ) throws(Violation) {
        for half in [members.voters, members.votersOutgoing] where !half.isEmpty {
            let count = half.count { holds($0) }
            try require(
                count > half.count / 2, .durableQuorum,
                "node \(id) commits entry \(index) of term \(term), but it is durable on "
                    + "\(count) of "
                    + "the voters \(half.map(\.rawValue))")
        }
    }
}
