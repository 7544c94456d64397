/// One change of a group's members.
public struct ConfChangeSingle: Equatable, Sendable {
    /// What happens to the member.
    public enum Kind: UInt8, Sendable {
        /// It becomes a voter.
        case addVoter
        /// It is no longer a member.
        case removePeer
        /// Nothing the core knows of: the change's context is for the driver.
        case updatePeer
        /// It becomes a learner.
        case addLearner
    }

    /// What happens.
    public var kind: Kind
    /// To whom.
    public var peer: PeerID

    /// A change.
    public init(_ kind: Kind, _ peer: PeerID) {
        self.kind = kind
        self.peer = peer
    }
}

/// A change of one member, decided without a joint configuration (Raft thesis, section 4.1).
public struct ConfChange: Equatable, Sendable {
    /// The change.
    public var change: ConfChangeSingle
    /// Bytes for the driver, such as the member's address.
    public var context: [UInt8]

    /// A change.
    public init(_ kind: ConfChangeSingle.Kind, _ peer: PeerID, context: [UInt8] = []) {
        change = ConfChangeSingle(kind, peer)
        self.context = context
    }

    /// The same as a change of the general form.
    public var v2: ConfChangeV2 {
        ConfChangeV2(changes: [change], context: context)
    }
}

/// Any number of changes, decided at once through a joint configuration where one is needed
/// (Raft thesis, section 4.3). Without changes, it leaves the joint configuration.
public struct ConfChangeV2: Equatable, Sendable {
    /// How the joint configuration is left.
    public enum Transition: UInt8, Sendable {
        /// A joint configuration only if more than one voter changes, left without being told.
        case auto
        /// A joint configuration always, left without being told.
        case jointImplicit
        /// A joint configuration always, left when an empty change is proposed.
        case jointExplicit
    }

    /// How a joint configuration is used.
    public var transition: Transition
    /// The changes, in order.
    public var changes: [ConfChangeSingle]
    /// Bytes for the driver.
    public var context: [UInt8]

    /// A change.
    public init(
        transition: Transition = .auto, changes: [ConfChangeSingle] = [], context: [UInt8] = []
    ) {
        self.transition = transition
        self.changes = changes
        self.context = context
    }

    /// Whether it asks to leave a joint configuration.
    public var leavesJoint: Bool { transition == .auto && changes.isEmpty }

    /// Whether it needs a joint configuration, and if so whether that is left without being told.
    public var joint: (enters: Bool, autoLeave: Bool) {
        if transition == .auto, changes.count <= 1 { return (false, false) }
        return (true, transition != .jointExplicit)
    }
}

/// Why the bytes of an entry are no configuration change.
public enum ConfChangeError: Error, Equatable, Sendable {
    /// They end too early.
    case truncated
    /// They were written by a later version.
    case unknownVersion(UInt8)
    /// A kind or transition has a number that has no meaning.
    case unknownKind(UInt8)
    /// There are more than ``Limits/changesPerConfChange`` changes.
    case tooManyChanges(Int)
    /// The entry's kind is not that of a configuration change.
    case notAConfChange
}

// The bytes: version (1), then for a single change its kind (1) and peer (8, little-endian), and
// for the general form the transition (1), the count (2), and kind and peer of each; the context
// is what remains. A general change that holds nothing has no bytes: it is the entry by which a
// leader leaves a joint configuration.

private let encodingVersion: UInt8 = 1

extension ConfChange {
    /// The bytes of an entry of kind ``EntryKind/confChange``.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = [encodingVersion]
        bytes.append(change)
        return bytes + context
    }

    /// Reads the bytes of such an entry.
    public init(decoding bytes: [UInt8]) throws(ConfChangeError) {
        var rest = bytes[...]
        try rest.takeVersion()
        change = try rest.takeChange()
        context = Array(rest)
    }
}

extension ConfChangeV2 {
    /// The bytes of an entry of kind ``EntryKind/confChangeV2``.
    public var encoded: [UInt8] {
        precondition(
            changes.count <= Limits.changesPerConfChange,
            "a configuration change holds at most \(Limits.changesPerConfChange) changes")
        if leavesJoint, context.isEmpty { return [] }
        var bytes: [UInt8] = [encodingVersion, transition.rawValue]
        bytes.append(UInt8(truncatingIfNeeded: changes.count))
        bytes.append(UInt8(truncatingIfNeeded: changes.count >> 8))
        for change in changes { bytes.append(change) }
        return bytes + context
    }

    /// Reads the bytes of such an entry.
    public init(decoding bytes: [UInt8]) throws(ConfChangeError) {
        self.init()
        if bytes.isEmpty { return }
        var rest = bytes[...]
        try rest.takeVersion()
        let number = try rest.take()
        guard let transition = Transition(rawValue: number) else {
            throw .unknownKind(number)
        }
        self.transition = transition
        let low = try rest.take()
        let high = try rest.take()
        let count = Int(low) | Int(high) << 8
        guard count <= Limits.changesPerConfChange else { throw .tooManyChanges(count) }
        for _ in 0..<count { changes.append(try rest.takeChange()) }
        context = Array(rest)
    }

    /// Reads the change of an entry of either kind.
    public init(entry: Entry) throws(ConfChangeError) {
        switch entry.kind {
        case .normal: throw .notAConfChange
        case .confChange: self = try ConfChange(decoding: entry.data).v2
        case .confChangeV2: try self.init(decoding: entry.data)
        }
    }
}

extension [UInt8] {
    fileprivate mutating func append(_ change: ConfChangeSingle) {
        append(change.kind.rawValue)
        for shift in stride(from: 0, to: 64, by: 8) {
            append(UInt8(truncatingIfNeeded: change.peer.rawValue >> UInt64(shift)))
        }
    }
}

extension ArraySlice<UInt8> {
    fileprivate mutating func take() throws(ConfChangeError) -> UInt8 {
        guard let byte = popFirst() else { throw .truncated }
        return byte
    }

    fileprivate mutating func takeVersion() throws(ConfChangeError) {
        let version = try take()
        guard version == encodingVersion else { throw .unknownVersion(version) }
    }

    fileprivate mutating func takeChange() throws(ConfChangeError) -> ConfChangeSingle {
        let number = try take()
        guard let kind = ConfChangeSingle.Kind(rawValue: number) else {
            throw .unknownKind(number)
        }
        var peer: UInt64 = 0
        for shift in stride(from: 0, to: 64, by: 8) {
            peer |= UInt64(try take()) << UInt64(shift)
        }
        return ConfChangeSingle(kind, PeerID(peer))
    }
}
