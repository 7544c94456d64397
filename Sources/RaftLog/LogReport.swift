import Model
import Raft

/// What a log on disk holds, for people and programs.
public struct LogReport: Sendable, Encodable {
    /// A file of the log.
    public struct Segment: Sendable, Encodable {
        /// Its name in the log's folder.
        public var file: String
        /// Its place in the log.
        public var sequence: UInt32
        /// Bytes of the file, and those in use at its start.
        public var bytes: Int
        public var usedBytes: Int
        /// Numbers of its first batch and of the one after its last.
        public var firstBatch: UInt64
        public var nextBatch: UInt64
        /// `full`, `empty` or `torn`: what is behind the last batch; `not read on` if damage is.
        public var end: String
    }

    /// What one sync made durable.
    public struct Batch: Sendable, Encodable {
        public var file: String
        /// Where it begins in the file, and its bytes with padding.
        public var offset: Int
        public var bytes: Int
        /// Counted over the whole log.
        public var number: UInt64
        /// The oldest segment that was needed then.
        public var oldestSegment: UInt32
        /// In their order.
        public var records: [Record]
    }

    /// What a batch says of one group.
    public struct Record: Sendable, Encodable {
        /// Where it begins in the file, and its bytes.
        public var offset: Int
        public var bytes: Int
        /// `entries`, `moved`, `hard state`, `removal`, or why a group's whole state was written:
        /// `create`, `install`, `compact`, `members`, `move`.
        public var kind: String
        /// The group's name.
        public var group: String
        /// The rest, in words.
        public var text: String
        /// Of records with entries.
        public var entries: [Entry]?
    }

    /// An entry without its data.
    public struct Entry: Sendable, Encodable {
        /// Its place in the group's log, and its term.
        public var index: UInt64
        public var term: UInt64
        /// `normal`, `confChange` or `confChangeV2`.
        public var kind: String
        /// Bytes of the data.
        public var bytes: Int
        /// Where it begins in the file.
        public var offset: Int
    }

    /// A group as of the last batch that could be read.
    public struct Group: Sendable, Encodable {
        /// The group's name.
        public var id: String
        /// The entries that are kept; the last is one less than the first if there are none.
        public var firstIndex: UInt64
        public var lastIndex: UInt64
        /// Bytes of the data of its entries.
        public var bytes: Int
        /// The hard state.
        public var term: UInt64
        public var vote: UInt64
        public var commit: UInt64
        /// The members.
        public var voters: [UInt64]
        public var learners: [UInt64]
        public var votersOutgoing: [UInt64]
        /// The entry after which these are the members.
        public var membersIndex: UInt64
        /// What of it does not fit together; nil if all does.
        public var problem: String?
    }

    /// Where the log ends.
    public struct End: Sendable, Encodable {
        /// The segment, and where in it the next batch would go.
        public var file: String
        public var byte: Int
        /// The number that it would have.
        public var nextBatch: UInt64
        /// Why nothing more was read.
        public var reason: String
    }

    /// The folder that was looked at.
    public var directory: String
    /// The format that is understood.
    public var formatVersion = Int(LogBytes.version)
    /// Oldest first.
    public var segments: [Segment] = []
    /// Files that are ready to become segments.
    public var spareFiles: [String] = []
    /// In the order of their names.
    public var groups: [Group] = []
    /// nil if the log is damaged.
    public var end: End?
    /// The first damage; nothing behind it was read. nil if the log is sound.
    public var damage: String?
}

extension LogReport.Record {
    init(_ record: LogRecord) {
        offset = record.offset
        bytes = record.size
        group = "\(record.group)"
        switch record.content {
        case .entries(let headers):
            kind = "entries"
            (text, entries) = Self.told(headers)
        case .moved(let headers):
            kind = "moved"
            (text, entries) = Self.told(headers)
        case .hardState(let state):
            kind = "hard state"
            text = Self.told(state)
        case .removal:
            kind = "removal"
            text = ""
        case .anchor(let anchor, let cause):
            kind = "\(cause)"
            let entries =
                anchor.last > anchor.base ? "\(anchor.base + 1)...\(anchor.last)" : "no entries"
            text =
                "\(entries) after \(anchor.base) of term \(anchor.baseTerm), "
                + Self.told(anchor.hardState)
                + ", voters \(anchor.confState.voters) as of \(anchor.confIndex)"
        }
    }

    private static func told(_ state: HardState) -> String {
        "term \(state.term) vote \(state.vote) commit \(state.commit)"
    }

    private static func told(
        _ headers: [LogBytes.EntryHeader]
    ) -> (String, [LogReport.Entry]) {
        let entries = headers.map {
            LogReport.Entry(
                index: $0.index, term: $0.term, kind: "\($0.kind)", bytes: $0.length,
                offset: $0.offset)
        }
        guard let first = entries.first, let last = entries.last else { return ("", []) }
        let bytes = entries.reduce(0) { $0 + $1.bytes }
        let terms =
            first.term == last.term ? "term \(first.term)" : "terms \(first.term)...\(last.term)"
        return ("\(first.index)...\(last.index) \(terms) \(bytes) bytes", entries)
    }
}

extension LogReport.Group {
    init(_ id: GroupID, _ group: RecoveredGroup) {
        self.id = "\(id)"
        let anchor = group.anchor
        firstIndex = anchor.base + 1
        lastIndex = anchor.last
        bytes = group.entryBytes
        term = anchor.hardState.term
        vote = anchor.hardState.vote.rawValue
        commit = anchor.hardState.commit
        voters = anchor.confState.voters.map(\.rawValue)
        learners = anchor.confState.learners.map(\.rawValue)
        votersOutgoing = anchor.confState.votersOutgoing.map(\.rawValue)
        membersIndex = anchor.confIndex
        do throws(RecoveredGroup.Refusal) {
            _ = try group.finish()
        } catch {
            if case .contradiction(let text) = error { problem = text }
        }
    }
}
