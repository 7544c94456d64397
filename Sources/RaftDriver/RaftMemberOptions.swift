import MetadataStore
import Raft
import RaftLog

/// Bounds of a member of a group.
public enum RaftMemberLimits {
    /// Commands that were proposed and are not answered; more are refused with `overloaded`.
    public static let waitingCommands = 16_384
    /// Bytes of these commands.
    public static let waitingBytes = 64 << 20
    /// Commands applied with one call: a start replays a long log in steps of this size.
    public static let appliedAtOnce = 1024
    /// Messages of other members that wait to be taken; more are dropped, as a network would.
    public static let waitingMessages = 16_384
    /// Bytes of these messages, about; a single one may be larger.
    public static let waitingMessageBytes = 64 << 20
    /// Elections for which a leader's log or tables may be at one piece of work before it hands
    /// leadership over: a disk that hangs.
    public static let stallElections = 2
    /// Elections for which callers of a leader that lacks room are told to ask another.
    public static let handoverElections = 4
    /// A member whose disk is full or hangs campaigns so many times later than others.
    public static let reluctance = 4
    /// Reads that wait for their index.
    public static let waitingReads = 16_384
    /// Elections that a read waits for its index.
    public static let readElections = 2
    /// After the disk had no room, or descriptors or memory were wanting, the same is tried again
    /// so much later.
    public static let noSpaceRetry = Duration.milliseconds(200)
    /// Elections for which a snapshot is kept for a member to whom it could not be delivered.
    public static let offerElections = 60
    /// A member that has installed a snapshot and lacks no more entries than these needs nothing of
    /// the log that is not kept anyway.
    public static let caughtUp: LogIndex = 1000
    /// After a snapshot could not be written the next attempt is made so much later.
    public static let snapshotRetry = Duration.seconds(2)
    /// Bytes a second at which snapshots are written, sent and installed where nothing else is said.
    public static let snapshotRate = BulkPace.Limits.usualRate
    /// The least that can be set.
    public static let leastSnapshotRate = BulkPace.Limits.leastRate
}

/// How a member behaves in its group.
public struct RaftMemberOptions: Sendable {
    /// Its name in the group.
    public var id: PeerID
    /// Length of a tick: the unit of elections and heartbeats.
    public var tick = Duration.milliseconds(50)
    /// Ticks without a word of the leader after which an election begins, at least.
    public var electionTicks = 10
    /// Ticks between heartbeats.
    public var heartbeatTicks = 2
    /// Told once when log or state begin to wait for what they lack (room on a disk, descriptors,
    /// memory), and once when they go on.
    public var notice: (@Sendable (String) -> Void)?
    /// Told when this member begins to lead, and when it leads no more; on its reactor, where it
    /// must not block. It begins once all that was answered before its term is applied here.
    public var leadershipChanged: (@Sendable (Leadership) -> Void)?
    /// Whether linearizable reads on the leader rest on its lease instead of a round of messages:
    /// see `ReadLease`. All members must have it set alike.
    public var usesLease = true

    /// Bytes of a piece of a snapshot on its way to another member, at most 1 MiB.
    public var snapshotPieceBytes = SnapshotFile.Limits.pieceBytes

    /// How fast snapshots are written, sent and installed at most, in bytes a second; 0: as fast as
    /// it goes. Otherwise at least `RaftMemberLimits.leastSnapshotRate`.
    public var snapshotBytesPerSecond = RaftMemberLimits.snapshotRate

    var snapshotPace: BulkPace { BulkPace(bytesPerSecond: snapshotBytesPerSecond) }

    /// How long members whom no quorum needs wait for new entries, so that they get what has gathered
    /// with one message and write it with one sync. Zero: all get them at once.
    public var restDelay = Duration.milliseconds(20)

    public init(id: PeerID) { self.id = id }

    /// The core's settings. What is proposed on a follower is refused with the leader's name, not
    /// forwarded: its proposer must learn where answers come from.
    func configuration(applied: LogIndex) -> Configuration {
        var configuration = Configuration(id: id)
        configuration.electionTick = electionTicks
        configuration.heartbeatTick = heartbeatTicks
        configuration.applied = applied
        configuration.asyncStorageWrites = true
        configuration.maxSizePerMessage = 1 << 20
        configuration.maxCommittedSizePerReady = 4 << 20
        configuration.maxUncommittedSize = RaftMemberLimits.waitingBytes
        configuration.maxInflightMessages = 64
        configuration.maxInflightBytes = 16 << 20
        configuration.checkQuorum = true
        configuration.preVote = true
        configuration.keepsLease = usesLease
        configuration.tellsCommitLate = true
        configuration.sendsQuorumFirst = restDelay > .zero
        configuration.disableProposalForwarding = true
        configuration.stepDownOnRemoval = true
        return configuration
    }
}
