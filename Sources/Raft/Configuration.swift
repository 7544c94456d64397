/// How a leader assures itself of its leadership before it serves a read.
public enum ReadOnlyOption: UInt8, Sendable {
    /// By a round of heartbeats (Raft thesis, section 6.4).
    case safe
    /// By its lease (section 6.4.1): no messages while a quorum has answered lately, but stale
    /// if clocks drift beyond ``Configuration/leaseMarginTicks``. Without a lease, as `safe`.
    /// Needs ``Configuration/checkQuorum`` on all members.
    case leaseBased
}

/// Why a ``Configuration`` cannot be used.
public struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What is wrong and what would be right.
    public var description: String
}

/// The settings of one member of one group.
public struct Configuration: Equatable, Sendable {
    /// This member.
    public var id: PeerID
    /// Ticks without a word of the leader after which a follower campaigns; drawn at random
    /// between this and twice this for each election (Raft thesis, section 3.4).
    public var electionTick = 10
    /// Ticks between heartbeats.
    public var heartbeatTick = 1
    /// The last entry the state machine has applied; 0 at the first start. It may be ahead of
    /// the persisted commit index, but not of the log.
    public var applied: LogIndex = 0
    /// Whether writes go to storage threads as messages instead of through `advance`.
    public var asyncStorageWrites = false
    /// Bytes of entries in one append; one entry is always sent.
    public var maxSizePerMessage = 1 << 20
    /// Bytes of committed entries in one Ready, or being applied with asynchronous writes.
    public var maxCommittedSizePerReady = 1 << 20
    /// Bytes of data that may wait in a leader's log uncommitted before it drops proposals.
    public var maxUncommittedSize = 1 << 30
    /// Appends in flight to one follower.
    public var maxInflightMessages = 256
    /// Bytes in flight to one follower; at least `maxSizePerMessage`, or 0 for no limit.
    public var maxInflightBytes = 0
    /// Whether a leader that hears no quorum for an election timeout steps down.
    public var checkQuorum = false
    /// Whether an election is tried before the term is raised (Raft thesis, section 9.6).
    public var preVote = false
    /// How reads are assured.
    public var readOnlyOption = ReadOnlyOption.safe
    /// Ticks by which a leader lets its lease end before its followers may elect another: 2 for
    /// the phases of two clocks that tick apart, and more for their drift.
    public var leaseMarginTicks = 2
    /// Whether followers hold off candidates as with `leaseBased`, while the core itself answers no
    /// read by a lease: for a driver with a clock that does not stand still when the process does.
    /// See ``RawNode/leaseTick``.
    public var keepsLease = false
    /// Whether followers hear what is committed with what they are sent anyway, or at the leader's
    /// next tick, instead of at once by messages of their own.
    public var tellsCommitLate = false
    /// Whether a leader sends entries at once only to as many voters as a quorum needs, and to all
    /// others when its driver says so: see ``RawNode/sendRest()``. Needs ``tellsCommitLate``: news of
    /// commits would take the entries along.
    public var sendsQuorumFirst = false
    /// Whether a follower drops proposals instead of sending them to its leader.
    public var disableProposalForwarding = false
    /// Whether changes of the configuration are appended without a look at the one in force.
    public var disableConfChangeValidation = false
    /// Whether a leader that is removed or demoted steps down when the change is applied.
    public var stepDownOnRemoval = false

    /// The settings of a member with everything else as usual.
    public init(id: PeerID) { self.id = id }

    /// Whether members grant leases.
    var grantsLeases: Bool { readOnlyOption == .leaseBased || keepsLease }

    /// Checks the settings.
    ///
    /// - Throws: ``ConfigurationError`` that names the first setting that cannot be.
    public func validate() throws(ConfigurationError) {
        if id == .none || id.isStorageThread {
            throw ConfigurationError(
                description: "id \(id.rawValue) is reserved: give the member another number")
        }
        if heartbeatTick < 1 {
            throw ConfigurationError(
                description: "heartbeatTick is \(heartbeatTick): it must be at least 1")
        }
        if electionTick <= heartbeatTick {
            throw ConfigurationError(
                description: "electionTick \(electionTick) must be greater than heartbeatTick "
                    + "\(heartbeatTick), and is best ten times it")
        }
        if maxSizePerMessage < 0 || maxCommittedSizePerReady < 0 || maxUncommittedSize < 0 {
            throw ConfigurationError(description: "limits in bytes must not be negative")
        }
        if maxInflightMessages < 1 {
            throw ConfigurationError(
                description: "maxInflightMessages is \(maxInflightMessages): "
                    + "at least 1 must be in flight")
        }
        if maxInflightBytes != 0, maxInflightBytes < maxSizePerMessage {
            throw ConfigurationError(
                description: "maxInflightBytes \(maxInflightBytes) must be at least "
                    + "maxSizePerMessage \(maxSizePerMessage), or 0 for no limit")
        }
        if leaseMarginTicks < 2 {
            throw ConfigurationError(
                description: "leaseMarginTicks is \(leaseMarginTicks): clocks that tick apart "
                    + "need at least 2")
        }
        if sendsQuorumFirst, !tellsCommitLate {
            throw ConfigurationError(
                description:
                    "sendsQuorumFirst needs tellsCommitLate: messages that tell of commits "
                    + "at once would bring the entries too")
        }
        if grantsLeases, !checkQuorum {
            throw ConfigurationError(
                description: "readOnlyOption leaseBased and keepsLease need checkQuorum, "
                    + "which is what ends a lease")
        }
    }
}
