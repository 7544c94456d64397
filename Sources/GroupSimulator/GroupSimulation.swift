import Bytes
import Model
import Raft
import RaftDriver
import RaftLog
import Reactor
import Simulator
import Transport

/// A group whose members are the code that serves, `RaftMember` over `SharedLog` with sessions and
/// snapshots, on machines that are made up: their files, clocks and network, and the clients, are
/// moved by one queue of events and by chance from one seed.
///
/// All reactors live on the thread that calls `run`, which must run no tasks of its own: see
/// `onThreadOfItsOwn`. After each step of a machine it is looked at, so that a violation is found
/// where it happened.
public final class GroupSimulation {
    /// What can happen next.
    enum Event {
        /// An operation of a process ends.
        case operation(Int, life: Int, number: UInt64)
        /// A timer of a process may be due.
        case wake(Int, life: Int)
        case message([UInt8], to: PeerID)
        case unreachable(Int, life: Int, PeerID)
        case piece(UInt64)
        case pieceAnswer(UInt64, Result<Int, StoreError>)
        case start(Int)
        case death(Int, life: Int, Death)
        case client(Int, token: Int)
        case request(RegisterClient.Attempt, Int)
        case reply(RegisterClient.Attempt, RegisterClient.Reply)
        case fault(GroupFault)
        case faultEnd(GroupFault, Int)
        /// A machine is cut off for a while.
        case isolation(Int, Microseconds)
        case partitionEnd
        case heal
        case inspection
    }

    /// Streams of chance, one for each part.
    struct Chance {
        var network: SeededGenerator
        var disk: SeededGenerator
        var tables: SeededGenerator
        var faults: SeededGenerator
        var clients: SeededGenerator
        var machines: SeededGenerator
        var members: SeededGenerator
        var probes: SeededGenerator

        init(seed: UInt64) {
            network = SeededGenerator(seed: seed, stream: 102)
            disk = SeededGenerator(seed: seed, stream: 103)
            tables = SeededGenerator(seed: seed, stream: 104)
            faults = SeededGenerator(seed: seed, stream: 105)
            clients = SeededGenerator(seed: seed, stream: 106)
            machines = SeededGenerator(seed: seed, stream: 107)
            members = SeededGenerator(seed: seed, stream: 108)
            probes = SeededGenerator(seed: seed, stream: 109)
        }
    }

    public enum Limits {
        /// Events kept to be printed with a failure.
        public static let tracedEvents = 80
        /// Steps of one process in a row after which it is taken to spin.
        public static let steps = 200_000
        /// Steps that a dead process is given to end its tasks.
        public static let lastSteps = 20_000
        /// Share of the persist points, and of the promises but the first of each process, at which
        /// the disk is looked at.
        public static let probeShare = 0.01
        public static let firstPromises = 3
        /// What comes to a process that is stopped comes again so much later.
        public static let pauseSteps: Microseconds = 20_000
        /// How long tables are at one piece of work at most.
        public static let tablesTime: Microseconds = 10_000_000
        /// Attempts of a client to have its operation settled.
        public static let settlingAttempts = 16
        /// How long a piece of a snapshot is waited for.
        public static let pieceTime: Microseconds = 5_000_000
    }

    static let group = GroupID(high: 7, low: 7)

    public let scenario: GroupScenario
    public internal(set) var statistics = Statistics()
    var queue = EventQueue<Event>()
    var network: Network
    var chance: Chance
    var machines: [GroupMachine] = []
    /// The machine of each member that ever was.
    var places: [PeerID: Int] = [:]
    var nextPeer: UInt64
    var clients: [RegisterClient] = []
    var histories: Histories
    var checker = GroupChecker()
    var trace = GroupTrace(keeping: Limits.tracedEvents)
    var pieces: [UInt64: PieceUnderWay] = [:]
    var nextPiece: UInt64 = 1
    var persistPoints = 0
    /// Machines whose disks are to be looked at.
    var probed: [Int] = []
    var isHealing = false
    var healedAt: Microseconds = 0
    var isDone = false
    let pool = BufferPool()

    /// A run that has not begun.
    public init(_ scenario: GroupScenario) {
        self.scenario = scenario
        network = Network(nodes: scenario.machines)
        chance = Chance(seed: scenario.seed)
        histories = Histories(registers: scenario.registers)
        nextPeer = UInt64(scenario.machines) + 1
        for place in 0..<scenario.machines {
            let isMember = place < scenario.voters
            let peer = PeerID(UInt64(place + 1))
            machines.append(GroupMachine(place: place, peer: isMember ? peer : nil))
            if isMember { places[peer] = place }
        }
        for number in 0..<scenario.clients {
            clients.append(RegisterClient(UInt16(number), &chance.clients))
        }
    }

    /// Has each event of the run printed.
    public func traceEvents(to printer: @escaping (String) -> Void) { trace.printer = printer }

    /// Equal for equal runs.
    public var digest: UInt64 { trace.digest.value }

    /// Runs to the end, or to the first violation.
    public func run() -> Failure<GroupScenario>? {
        for place in 0..<scenario.voters { start(place) }
        for place in clients.indices {
            wake(place, after: chance.clients.time(in: scenario.thinkTime))
        }
        for fault in GroupFault.allCases { scheduleFault(fault) }
        queue.push(.heal, after: scenario.faultTime)
        while !isDone, checker.violation == nil, let event = queue.pop() {
            statistics.steps += 1
            handle(event)
            if !probed.isEmpty { probe() }
        }
        if checker.violation == nil, let detail = histories.firstViolation() {
            checker.fail(.linearizability, detail)
        }
        let violation = checker.violation
        for machine in machines { bury(machine) }
        summarize()
        return violation.map {
            Failure(
                scenario: scenario, violation: $0, step: statistics.steps, time: queue.now,
                events: trace.tail)
        }
    }

    private func summarize() {
        statistics.runs = 1
        statistics.time = queue.now
        statistics.elections = checker.elections
        statistics.persistPoints = persistPoints
        statistics.operations = histories.operations
        statistics.unanswered = histories.unanswered
        statistics.registersLost = histories.lost
    }

    private func handle(_ event: Event) {
        switch event {
        case .operation(let place, let life, let number):
            guard let machine = awake(place, life, event) else { return }
            endOperation(number, on: machine)
        case .wake(let place, let life):
            guard let machine = awake(place, life, event) else { return }
            machine.wakeAt = nil
            settle(machine)
        case .message(let bytes, let peer): arrive(bytes, at: peer, event)
        case .unreachable(let place, let life, let peer):
            guard let machine = awake(place, life, event) else { return }
            if let group = machine.group {
                group.engine.member.inPlace { $0.unreachable(peer) }
            }
            settle(machine)
        case .piece(let number): arrive(piece: number, event)
        case .pieceAnswer(let number, let result): answer(piece: number, with: result, event)
        case .start(let place): if machines[place].process == nil { start(place) }
        case .death(let place, let life, let death):
            if let machine = alive(place, life) { crash(machine, death) }
        case .client(let place, let token): if clients[place].token == token { act(place) }
        case .request(let attempt, let place): serve(attempt, at: place, event)
        case .reply(let attempt, let reply): end(attempt, reply)
        case .fault(let fault): strike(fault)
        case .faultEnd(let fault, let place): relieve(fault, place)
        case .isolation(let place, let time): isolate([place], for: time)
        case .partitionEnd: if !isHealing { endPartition() }
        case .heal: heal()
        case .inspection: inspect()
        }
    }

    /// The machine at a place, if its process is in that life.
    func alive(_ place: Int, _ life: Int) -> GroupMachine? {
        let machine = machines[place]
        return machine.process != nil && machine.life == life ? machine : nil
    }

    /// The same if the process is not stopped; else the event comes again when it goes on.
    func awake(_ place: Int, _ life: Int, _ event: Event) -> GroupMachine? {
        guard let machine = alive(place, life) else { return nil }
        guard machine.pausedUntil > queue.now else { return machine }
        // The pause may be cut short.
        queue.push(event, after: min(machine.pausedUntil - queue.now, Limits.pauseSteps))
        return nil
    }

    func note(_ event: GroupEvent) {
        trace.add(event, step: statistics.steps, time: queue.now)
    }
}
