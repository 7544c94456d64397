/// What an entry's bytes are.
public enum EntryKind: UInt8, Sendable {
    /// A command of the state machine; without bytes, the entry a new leader begins its term with.
    case normal
    /// One ``ConfChange``.
    case confChange
    /// A ``ConfChangeV2``.
    case confChangeV2
}

/// One entry of the replicated log (Raft thesis, section 3.5).
public struct Entry: Equatable, Sendable {
    /// The term of the leader that appended it.
    public var term: Term
    /// Its place in the log.
    public var index: LogIndex
    /// What `data` is.
    public var kind: EntryKind
    /// The command, opaque to the core unless `kind` says otherwise.
    public var data: [UInt8]

    /// An entry; a proposal leaves term and index to the leader.
    public init(
        term: Term = 0, index: LogIndex = 0, kind: EntryKind = .normal, data: [UInt8] = []
    ) {
        self.term = term
        self.index = index
        self.kind = kind
        self.data = data
    }

    /// What the entry counts towards the limits of messages and of a Ready: its data and
    /// ``Limits/entryOverhead``.
    public var byteCount: Int { data.count + Limits.entryOverhead }
}

/// The fixed bounds and sizes of the core. What depends on the deployment is in
/// ``Configuration``.
public enum Limits {
    /// Bytes an entry counts beside its data: term, index, kind and length on the wire.
    public static let entryOverhead = 24
    /// The most changes in one ``ConfChangeV2``.
    public static let changesPerConfChange = 256
    /// The most read requests that wait for a leader's first commit or for a confirmation;
    /// further ones are dropped, and their callers ask again.
    public static let pendingReads = 65_536
    /// The largest term and index that are taken from a peer. No group gets there; beyond it,
    /// counting on could overflow.
    public static let largestNumber: UInt64 = 1 << 62
    /// Entries that a member may lack and still get them later than others.
    public static let deferredEntries: UInt64 = 4096
    /// How often members that get entries later are sent them until it is looked at anew who
    /// acknowledges first: a second, where they are sent every 20 ms.
    public static let restsBetweenTrials = 50
    /// Entries that ``MemoryStorage`` and the unstable log may keep dead in front before they
    /// are moved down.
    public static let deadEntries = 64
}
