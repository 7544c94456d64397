import Raft

/// What one run is made of, drawn from its seed: which faults come and how often, how large the
/// cluster is and how the cores are configured. Each fault is absent from some runs, so that the
/// others show what they do alone (swarm testing, Groce and others 2012).
public struct Scenario: RepeatableScenario {
    /// The seed of everything.
    public var seed: UInt64
    /// A defect that is put in; nil for none.
    public var mutation: Mutation?
    /// What is checked.
    public var properties = Set(Property.allCases)

    /// Whether `concentrateOnMembers` was called.
    public private(set) var isConcentrated = false

    /// How long the run is to be.
    public private(set) var length = RunLength.short

    // MARK: The cluster

    /// Nodes that exist; those beyond `voters` wait to be added.
    public var nodes = 3
    /// Voters at the start.
    public var voters = 3
    /// Whether the cluster begins with entries that name its members rather than a snapshot.
    public var isBootstrapped = true
    /// Which nodes write through messages to storage threads: bit n is node n + 1.
    public var asynchronousNodes: UInt64 = 0
    public var core = Configuration(id: 1)

    // MARK: Time

    /// How long faults go on.
    public var faultTime: Microseconds = 60_000_000
    /// Within which time after the faults everything must be well again.
    public var healingTime: Microseconds = 60_000_000
    /// A tick of a true clock.
    public var tick: Microseconds = 100_000
    /// By how much a node's clock goes fast or slow at most, as a share.
    public var drift = 0.0
    /// Whether each clock is off by all of `drift` rather than by anything up to it.
    public var driftsFully = false

    // MARK: Network

    public var delay: ClosedRange<Microseconds> = 500...5_000
    /// Share of messages that take up to `longDelay`.
    public var lateShare = 0.0
    public var longDelay: Microseconds = 1_000_000
    public var lossShare = 0.0
    public var duplicateShare = 0.0
    /// Partitions a minute.
    public var partitionRate = 0.0
    /// Whether some partitions cut one direction only.
    public var cutsOneWay = false

    // MARK: Disks and crashes

    public var syncTime: ClosedRange<Microseconds> = 500...10_000
    /// Slow times of some disk a minute, in which a sync takes a hundred times as long.
    public var slowDiskRate = 0.0
    /// Crashes of some node a minute, at any time.
    public var crashRate = 0.0
    /// Probability of a crash at each persist point.
    public var persistPointCrash = 0.0
    /// Crashes the node at exactly this persist point, counted from 1 over all nodes; 0 for none.
    public var crashAtPersistPoint = 0
    public var downTime: ClosedRange<Microseconds> = 100_000...3_000_000
    /// What a crash may leave of unsynced writes.
    var tears = Tear.allCases
    /// Whether the core reads the log as the medium has it rather than as it was written: what is
    /// on its way there is not seen yet.
    public var readsDurableLog = false
    /// Probability that the core's read of old entries finds them not in memory.
    public var coldReadShare = 0.0
    /// Pauses of a whole node a minute; never with lease reads, which trust the clock.
    public var pauseRate = 0.0

    // MARK: Application

    /// Entries applied between checkpoints.
    public var checkpointInterval = 50
    /// Entries that stay in the log behind a checkpoint.
    public var keptEntries = 10
    /// How long an apply thread takes.
    public var applyTime: ClosedRange<Microseconds> = 10...5_000

    // MARK: Load

    public var clients = 3
    public var registers = 3
    public var thinkTime: ClosedRange<Microseconds> = 10_000...500_000
    public var requestTimeout: Microseconds = 2_000_000
    /// Share of reads among the operations; the rest are writes and swaps.
    public var readShare = 0.5
    /// Largest padding of a command, in bytes.
    public var padding = 0
    /// Attempts at changing the members a minute.
    public var membershipRate = 0.0
    /// Whether members are changed hastily: several changes at once, and all voters for others.
    public var changesHastily = false
    /// Leadership transfers, forced campaigns and forgotten leaders a minute.
    public var disturbanceRate = 0.0

    /// A quiet cluster of three.
    public init(quiet seed: UInt64) { self.seed = seed }
}

/// How long a run is.
public enum RunLength: String, Sendable {
    /// 10 to 30 simulated seconds of faults: for tests.
    case short
    /// 1 to 5 simulated minutes of faults.
    case long
}

extension Scenario {
    public var options: [String] {
        var options: [String] = []
        if length == .long { options.append("--long") }
        if isConcentrated { options.append("--members") }
        if properties.isSubset(of: Property.paper) { options.append("--paper") }
        if let mutation { options += ["--mutation", mutation.rawValue] }
        return options
    }

    /// The scenario of a seed.
    public init(seed: UInt64, length: RunLength = .short) {
        self.init(quiet: seed)
        self.length = length
        var generator = SeededGenerator(seed: seed, stream: 1)
        drawCluster(&generator)
        drawCore(&generator)
        drawNetwork(&generator)
        drawDisks(&generator)
        drawLoad(&generator)
        let seconds = length == .short ? generator.int(in: 10...30) : generator.int(in: 60...300)
        faultTime = Microseconds(seconds) * 1_000_000
        var clocks = SeededGenerator(seed: seed, stream: 7)
        driftsFully = clocks.chance(0.5)
        changesHastily = clocks.chance(0.3)
        readsDurableLog = clocks.chance(0.3)
        var sending = SeededGenerator(seed: seed, stream: 9)
        core.tellsCommitLate = sending.chance(0.4)
        core.sendsQuorumFirst = core.tellsCommitLate && sending.chance(0.7)
        settleLeases()
    }

    /// A lease trusts clocks: runs with lease reads pause no process, and their clocks drift by no
    /// more than the lease's margin allows. Two of its ticks are for the phases of two clocks, the
    /// rest must make up for a leader that is slow while its followers are fast.
    private mutating func settleLeases() {
        guard core.readOnlyOption == .leaseBased else { return }
        pauseRate = 0
        drift = min(drift, leaseDrift)
    }

    /// The share by which a clock may be fast or slow at most where lease reads are served.
    public var leaseDrift: Double {
        let margin = Double(core.leaseMarginTicks - 2)
        return margin / (2 * Double(core.electionTick) - margin)
    }

    private mutating func drawCluster(_ generator: inout SeededGenerator) {
        voters = generator.element(of: [1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]) ?? 3
        membershipRate = generator.element(of: [0, 0, 4, 15, 40]) ?? 0
        nodes = membershipRate > 0 ? max(voters, generator.int(in: 3...7)) : voters
        isBootstrapped = generator.chance(0.5)
        asynchronousNodes =
            switch generator.int(in: 0...3) {
            case 0: 0
            case 1: .max
            default: generator.next()
            }
        disturbanceRate = generator.element(of: [0, 0, 3, 10, 30]) ?? 0
        drift = generator.element(of: [0, 0.001, 0.02, 0.1]) ?? 0
    }

    private mutating func drawCore(_ generator: inout SeededGenerator) {
        core.electionTick = generator.element(of: [5, 10, 10, 10, 15]) ?? 10
        core.heartbeatTick = generator.element(of: [1, 1, 1, 2, 3]) ?? 1
        core.preVote = generator.chance(0.5)
        core.checkQuorum = generator.chance(0.6)
        if core.checkQuorum, generator.chance(0.4) { core.readOnlyOption = .leaseBased }
        core.leaseMarginTicks = generator.int(in: 2...4)
        core.stepDownOnRemoval = generator.chance(0.5)
        core.disableProposalForwarding = generator.chance(0.2)
        core.maxSizePerMessage = generator.element(of: [0, 64, 256, 1024, 1 << 20]) ?? 1024
        core.maxCommittedSizePerReady = generator.element(of: [64, 512, 1 << 20]) ?? 1024
        core.maxInflightMessages = generator.element(of: [1, 2, 4, 16, 256]) ?? 16
        if generator.chance(0.3) {
            core.maxInflightBytes = core.maxSizePerMessage + generator.int(in: 1...2048)
        }
        if generator.chance(0.3) { core.maxUncommittedSize = generator.int(in: 100...2000) }
    }

    private mutating func drawNetwork(_ generator: inout SeededGenerator) {
        let typical = generator.element(of: [300, 1_000, 10_000, 40_000]) ?? 1_000
        delay = Microseconds(typical / 3)...Microseconds(typical * 2)
        lateShare = generator.element(of: [0, 0, 0.01, 0.1]) ?? 0
        longDelay = Microseconds(generator.int(in: 100_000...3_000_000))
        lossShare = generator.element(of: [0, 0, 0.01, 0.05, 0.2]) ?? 0
        duplicateShare = generator.element(of: [0, 0, 0.01, 0.1]) ?? 0
        partitionRate = generator.element(of: [0, 0, 4, 12, 30]) ?? 0
        cutsOneWay = generator.chance(0.5)
    }

    private mutating func drawDisks(_ generator: inout SeededGenerator) {
        let typical = generator.element(of: [100, 1_000, 8_000, 30_000]) ?? 1_000
        syncTime = Microseconds(typical / 4)...Microseconds(typical * 2)
        slowDiskRate = generator.element(of: [0, 0, 5, 15]) ?? 0
        crashRate = generator.element(of: [0, 0, 5, 15, 40]) ?? 0
        persistPointCrash = generator.element(of: [0, 0, 0.0005, 0.003]) ?? 0
        let longest = generator.element(of: [100_000, 1_000_000, 8_000_000]) ?? 1_000_000
        downTime = 10_000...Microseconds(longest)
        if generator.chance(0.3) { tears = [generator.element(of: Tear.allCases) ?? .none] }
        coldReadShare = generator.element(of: [0, 0, 0.02, 0.2]) ?? 0
        pauseRate = generator.element(of: [0, 0, 0, 5]) ?? 0
        checkpointInterval = generator.element(of: [3, 10, 40, 150, 100_000]) ?? 40
        keptEntries = generator.element(of: [0, 1, 5, 30]) ?? 5
        let apply = generator.element(of: [20, 500, 20_000]) ?? 500
        applyTime = 10...Microseconds(apply)
    }

    private mutating func drawLoad(_ generator: inout SeededGenerator) {
        clients = generator.int(in: 1...6)
        registers = generator.int(in: 1...4)
        let think = generator.element(of: [20_000, 100_000, 400_000]) ?? 100_000
        thinkTime = 1_000...Microseconds(think)
        requestTimeout = Microseconds(generator.int(in: 300_000...3_000_000))
        readShare = generator.element(of: [0.2, 0.5, 0.8]) ?? 0.5
        padding = generator.element(of: [0, 50, 400, 1500]) ?? 0
    }
}

extension Scenario {
    /// Puts changes of members first: one hasty change upon another in a cluster that is torn
    /// apart all the time and is slow to apply what it has committed.
    public mutating func concentrateOnMembers() {
        isConcentrated = true
        (nodes, voters) = (max(nodes, 5), max(voters, 3))
        (membershipRate, changesHastily) = (120, true)
        (partitionRate, crashRate) = (max(partitionRate, 60), max(crashRate, 15))
        (clients, thinkTime) = (3, 1_000...100_000)
        applyTime = 10...800_000
        core.checkQuorum = false
        core.readOnlyOption = .safe
    }

    /// Many clients that ask for one register while the leader is cut off: a stale read shows
    /// only to one who wrote elsewhere a moment before.
    private mutating func askOftenWhileCut() {
        partitionRate = max(partitionRate, 30)
        (clients, registers, readShare) = (6, 1, 0.6)
        thinkTime = 1_000...20_000
        requestTimeout = 300_000
        (delay, lossShare, lateShare) = (100...1_000, 0, 0)
        (membershipRate, crashRate, slowDiskRate, persistPointCrash) = (0, 0, 0, 0)
        (voters, nodes) = (3, 3)
        (syncTime, applyTime) = (100...1_000, 10...100)
        core.disableProposalForwarding = false
    }

    /// Puts in a defect. What it needs to show is switched on where the seed left it out.
    public mutating func apply(_ mutation: Mutation?) {
        self.mutation = mutation
        // A node that acknowledges early would look for entries that are not there yet.
        // Within so many seeds each is found by members that are sent everything at once.
        if mutation != nil {
            readsDurableLog = false
            (core.tellsCommitLate, core.sendsQuorumFirst) = (false, false)
        }
        switch mutation {
        case .leaseBeyondDrift:
            core.checkQuorum = true
            core.readOnlyOption = .leaseBased
            core.leaseMarginTicks = 2
            (drift, driftsFully) = (0.6, true)
            pauseRate = 0
            // Such clocks keep a cluster from electing at times.
            properties.remove(.liveness)
            askOftenWhileCut()
        case .ignoresDamage:
            asynchronousNodes = .max
            tears = [.blocks]
            crashRate = max(crashRate, 40)
            slowDiskRate = max(slowDiskRate, 30)
        case .forgetsVote, .forgetsTerm, .writesHardStateLate:
            // Two candidates of one term, and a voter that is back while they still campaign.
            persistPointCrash = 0.02
            downTime = 1_000...20_000
            delay = 10_000...80_000
            partitionRate = max(partitionRate, 12)
            disturbanceRate = max(disturbanceRate, 60)
            core.preVote = false
            core.checkQuorum = false
            core.readOnlyOption = .safe
        case .acceptsStaleTerm:
            lateShare = max(lateShare, 0.1)
            partitionRate = max(partitionRate, 12)
        case .compactsBeyondCheckpoint, .leavesOutSessions, .snapshotsWrongTerm, .appliesTwice,
            .acknowledgesSnapshotBeforeSync, .losesConfiguration:
            checkpointInterval = min(checkpointInterval, 10)
            crashRate = max(crashRate, 15)
        case .readsWithoutRound, .readsFromFollower, .readsBeforeApplied:
            partitionRate = max(partitionRate, 12)
        default: break
        }
    }
}
