import Simulator

/// What one run of a simulated group is made of, drawn from its seed: how many machines there are,
/// how their logs are cut, which faults come and how often. Each fault is absent from some runs.
public struct GroupScenario: RepeatableScenario {
    /// The seed of everything.
    public var seed: UInt64
    /// Whether runs last for minutes.
    public var isLong = false

    // MARK: The group

    /// Machines that exist; those beyond `voters` wait to be added.
    public var machines = 3
    /// Voters at the start.
    public var voters = 3
    public var electionTicks = 10
    public var heartbeatTicks = 2
    public var tickMilliseconds = 50
    public var usesLease = true
    /// Bytes of a segment of the log.
    public var segmentBytes = 64 << 10
    public var slackSegments = 4
    /// Bytes of entries that a log keeps in memory.
    public var cacheBytes = 1 << 20
    /// Bytes of log between checkpoints of the tables.
    public var checkpointBytes = 64 << 10
    /// Entries that the log keeps behind a checkpoint.
    public var trailingEntries: UInt64 = 50
    /// Bytes of a piece of a snapshot.
    public var pieceBytes = 1 << 20
    /// Jobs of a process between two looks at what has come in.
    public var jobsPerStep = 256

    // MARK: Time

    /// How long faults go on.
    public var faultTime: Microseconds = 20_000_000
    /// Within which time after the faults everything must be well again.
    public var healingTime: Microseconds = 60_000_000
    /// By how much a machine's clock goes fast or slow at most, as a share.
    public var drift = 0.0

    // MARK: Network

    public var delay: ClosedRange<Microseconds> = 200...3_000
    /// Share of messages that take up to `longDelay`.
    public var lateShare = 0.0
    public var longDelay: Microseconds = 1_000_000
    public var lossShare = 0.0
    public var duplicateShare = 0.0
    /// Partitions a minute.
    public var partitionRate = 0.0
    public var cutsOneWay = false

    // MARK: Disks and processes

    public var syncTime: ClosedRange<Microseconds> = 200...6_000
    public var accessTime: ClosedRange<Microseconds> = 5...300
    /// Each of these a minute, of some machine.
    public var killRate = 0.0
    public var powerCutRate = 0.0
    /// Power cuts of all machines at once, a minute.
    public var blackoutRate = 0.0
    public var pauseRate = 0.0
    public var slowDiskRate = 0.0
    /// Times in which the tables of one machine are slow, a minute.
    public var slowTablesRate = 0.0
    public var hangRate = 0.0
    public var fullDiskRate = 0.0
    /// Times in which a leader and another member are cut off, whose disks hang, a minute.
    public var overtakingRate = 0.0
    /// How often a fault of one machine hits the leader's, if there is one.
    public var leaderShare = 0.0
    /// Probability of a crash at each operation that makes something durable or changes names.
    public var persistPointCrash = 0.0
    /// Crashes at exactly this persist point, counted over all machines from 1; 0 for none.
    public var crashAtPersistPoint = 0
    /// Probability that an operation fails for good, and that it finds no memory.
    public var errorShare = 0.0
    public var shortageShare = 0.0
    /// Probability of a crash between the log's taking of a snapshot and the tables'.
    public var installCrash = 0.0
    /// How long a copy of the tables takes at most.
    public var copyTime: Microseconds = 50_000
    public var downTime: ClosedRange<Microseconds> = 100_000...3_000_000

    // MARK: Load

    public var clients = 4
    public var registers = 3
    public var thinkTime: ClosedRange<Microseconds> = 1_000...100_000
    public var requestTimeout: Microseconds = 1_500_000
    /// Attempts at one operation before its client gives it up, while there are faults; how often it
    /// then has the group settle a change.
    public var attempts = 8
    public var settleShare = 0.5
    /// How often a client begins an operation at another machine than the one that answered last.
    public var wanderShare = 0.0
    /// Share of requests that come once more, up to `longRequest` later.
    public var lateRequestShare = 0.0
    public var longRequest: Microseconds = 3_000_000
    /// How often a client that has given up an operation rests for up to `longRest`.
    public var restShare = 0.0
    public var longRest: Microseconds = 3_000_000
    public var readShare = 0.4
    /// Largest padding of a command, in bytes.
    public var padding = 0
    /// Changes of the members a minute, and handovers of leadership.
    public var membershipRate = 0.0
    public var transferRate = 0.0

    /// A quiet group of three.
    public init(quiet seed: UInt64) { self.seed = seed }
}

extension GroupScenario {
    public var options: [String] { isLong ? ["--driver", "--long"] : ["--driver"] }

    /// The scenario of a seed.
    public init(seed: UInt64, isLong: Bool = false) {
        self.init(quiet: seed)
        self.isLong = isLong
        var generator = SeededGenerator(seed: seed, stream: 101)
        drawGroup(&generator)
        drawNetwork(&generator)
        drawMachines(&generator)
        drawLoad(&generator)
        let seconds = isLong ? generator.int(in: 60...300) : generator.int(in: 8...20)
        faultTime = Microseconds(seconds) * 1_000_000
    }

    private mutating func drawGroup(_ generator: inout SeededGenerator) {
        voters = generator.element(of: [1, 2, 3, 3, 3, 3, 4, 5, 5]) ?? 3
        membershipRate = generator.chance(0.4) ? Double(generator.int(in: 4...30)) : 0
        machines = voters + (membershipRate > 0 ? generator.int(in: 1...2) : 0)
        electionTicks = generator.int(in: 6...12)
        heartbeatTicks = generator.int(in: 1...2)
        usesLease = generator.chance(0.7)
        segmentBytes = generator.element(of: [32, 32, 64, 64, 256]).map { $0 << 10 } ?? 65536
        slackSegments = generator.int(in: 2...4)
        cacheBytes = generator.element(of: [0, 4 << 10, 64 << 10, 1 << 20]) ?? 0
        checkpointBytes = generator.element(of: [16, 64, 64, 256, 1024]).map { $0 << 10 } ?? 65536
        trailingEntries = generator.element(of: [1, 2, 2, 10, 50, 1000]) ?? 50
        pieceBytes = generator.element(of: [16, 64, 512, 4096, 1 << 20]) ?? 4096
        jobsPerStep = generator.element(of: [1, 3, 256]) ?? 256
        drift = generator.chance(0.5) ? 0.04 * generator.fraction() : 0
    }

    private mutating func drawNetwork(_ generator: inout SeededGenerator) {
        if generator.chance(0.4) { lateShare = 0.1 * generator.fraction() }
        if generator.chance(0.4) { lossShare = 0.15 * generator.fraction() }
        if generator.chance(0.4) { duplicateShare = 0.1 * generator.fraction() }
        if generator.chance(0.5) { partitionRate = Double(generator.int(in: 2...20)) }
        cutsOneWay = generator.chance(0.5)
    }

    private mutating func drawMachines(_ generator: inout SeededGenerator) {
        func rate(_ share: Double, _ range: ClosedRange<Int>) -> Double {
            generator.chance(share) ? Double(generator.int(in: range)) : 0
        }
        killRate = rate(0.5, 2...30)
        powerCutRate = rate(0.5, 2...30)
        blackoutRate = rate(0.3, 2...10)
        pauseRate = rate(0.5, 4...20)
        slowDiskRate = rate(0.3, 2...10)
        hangRate = rate(0.3, 2...8)
        fullDiskRate = rate(0.3, 2...8)
        if generator.chance(0.4) { persistPointCrash = 0.005 * generator.fraction() }
        if generator.chance(0.2) { errorShare = 0.001 * generator.fraction() }
        if generator.chance(0.2) { shortageShare = 0.005 * generator.fraction() }
        if generator.chance(0.3) { syncTime = 1_000...30_000 }
        slowTablesRate = rate(0.5, 4...12)
        overtakingRate = rate(0.2, 4...12)
        leaderShare = generator.element(of: [0, 0.3, 0.8]) ?? 0
        if generator.chance(0.4) { installCrash = 0.4 }
        if generator.chance(0.3) { copyTime = 3_000_000 }
    }

    /// The log is short and messages are lost, so that members often fall behind it.
    private mutating func needSnapshots(_ generator: inout SeededGenerator) {
        trailingEntries = generator.chance(0.5) ? 1 : 2
        checkpointBytes = 16 << 10
        lossShare = max(lossShare, 0.1 * generator.fraction())
    }

    private mutating func drawLoad(_ generator: inout SeededGenerator) {
        clients = generator.int(in: 2...8)
        registers = generator.int(in: 1...4)
        readShare = generator.element(of: [0.1, 0.4, 0.8]) ?? 0.4
        padding = generator.element(of: [0, 100, 2000, 6000]) ?? 0
        if generator.chance(0.4) { thinkTime = 0...5_000 }
        transferRate = generator.chance(0.4) ? Double(generator.int(in: 2...20)) : 0
        if generator.chance(0.4) { requestTimeout = 300_000 }
        attempts = generator.element(of: [3, 5, 8]) ?? 8
        wanderShare = generator.element(of: [0.05, 0.2, 0.6]) ?? 0
        if generator.chance(0.4) { lateRequestShare = 0.5 * generator.fraction() }
        if generator.chance(0.5) { restShare = 0.5 }
        settleShare = generator.element(of: [0.2, 0.8]) ?? 0.5
        if generator.chance(0.5) { needSnapshots(&generator) }
    }
}
