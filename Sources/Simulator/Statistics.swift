/// What a run, or many, went through.
public struct Statistics: Sendable {
    public var runs = 0
    public var steps = 0
    public var time: Microseconds = 0
    public var elections = 0
    public var crashes = 0
    public var persistPoints = 0
    /// Looks at disks that go on.
    public var probes = 0
    public var partitions = 0
    public var membershipChanges = 0
    public var transfers = 0
    public var snapshotsInstalled = 0
    public var messagesDelivered = 0
    public var messagesLost = 0
    public var entriesApplied = 0
    public var operations = 0
    public var unanswered = 0
    /// Registers whose history outgrew the checker that runs along.
    public var registersLost = 0

    public init() {}

    public static func += (left: inout Statistics, right: Statistics) {
        left.runs += right.runs
        left.steps += right.steps
        left.time += right.time
        left.elections += right.elections
        left.crashes += right.crashes
        left.probes += right.probes
        left.persistPoints += right.persistPoints
        left.partitions += right.partitions
        left.membershipChanges += right.membershipChanges
        left.transfers += right.transfers
        left.snapshotsInstalled += right.snapshotsInstalled
        left.messagesDelivered += right.messagesDelivered
        left.messagesLost += right.messagesLost
        left.entriesApplied += right.entriesApplied
        left.operations += right.operations
        left.unanswered += right.unanswered
        left.registersLost += right.registersLost
    }
}
