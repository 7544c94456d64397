import Raft

/// One node of the cluster: a core, its disk and its application.
///
/// While it is down `raft` is nil, and only the disk counts.
final class SimulatedNode {
    let id: PeerID
    let disk: SimulatedDisk
    var raft: RawNode<SimulatedDisk>?
    /// Counts starts: what was scheduled for an earlier one is void.
    var incarnation = 0
    /// Whether it was ever started: the nodes that wait to be added were not.
    var isStarted = false
    /// Whether writes go to storage threads as messages.
    let isAsynchronous: Bool
    /// A tick on the node's own clock.
    var tickPeriod: Microseconds = 0
    /// Until when the node does nothing at all: what comes is handled then.
    var pausedUntil: Microseconds = 0
    /// Until when its disk is slow.
    var slowUntil: Microseconds = 0

    // MARK: Volatile state

    var state = KeyValueState()
    var applied: (index: LogIndex, term: Term) = (0, 0)
    var confState = ConfState()
    /// The index of the snapshot installed last, in this life.
    var restored: LogIndex = 0
    /// Ticks for which it has led without being a member.
    var ticksSinceRemoval = 0
    /// The Ready that is being persisted, of a synchronous node.
    var outstanding: Ready?
    /// What the apply thread has before it, of an asynchronous node.
    var applying: [Message] = []
    var waitingReads: [(index: LogIndex, request: ReadRequest)] = []
    var waitingWrites: [WriteKey] = []
    var role = Role.follower
    var commit: LogIndex = 0
    /// A hard state that a defect holds back.
    var heldBack: HardState?
    /// The highest term a defective leader heard of.
    var highestTerm: Term = 0
    /// Entries up to here were in the log when the node started.
    var lastAtStart: LogIndex = 0

    init(id: PeerID, disk: SimulatedDisk, isAsynchronous: Bool) {
        self.id = id
        self.disk = disk
        self.isAsynchronous = isAsynchronous
    }

    /// Forgets what a crash loses in memory.
    func loseMemory() {
        raft = nil
        incarnation += 1
        outstanding = nil
        applying = []
        waitingReads = []
        waitingWrites = []
        restored = 0
        ticksSinceRemoval = 0
        role = .follower
        commit = 0
        heldBack = nil
        highestTerm = 0
    }
}

/// A read that a client waits for.
struct ReadRequest: Equatable {
    var client: UInt16
    var sequence: UInt32
    var register: RegisterID

    /// The request as the context of a read index.
    var context: [UInt8] {
        var builder = ByteBuilder()
        builder.add(client, bytes: 2)
        builder.add(sequence, bytes: 4)
        builder.add(register, bytes: 4)
        return builder.bytes
    }

    init(client: UInt16, sequence: UInt32, register: RegisterID) {
        self.client = client
        self.sequence = sequence
        self.register = register
    }

    init?(context: [UInt8]) {
        var reader = ByteReader(bytes: context)
        guard let client = reader.take(2), let sequence = reader.take(4),
            let register = reader.take(4)
        else { return nil }
        self.init(
            client: UInt16(client), sequence: UInt32(sequence), register: UInt32(register))
    }
}

/// A write that a client waits for.
struct WriteKey: Equatable {
    var client: UInt16
    var sequence: UInt32
}
