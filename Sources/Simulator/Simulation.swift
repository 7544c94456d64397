import Raft

/// A cluster, its network, its disks, its clients and those who disturb it, all moved by one queue
/// of events and by chance from one seed.
///
/// Each event touches one node at most. After each, the checker looks at that node, so that a
/// violation is found at the step that caused it. Not for use from several threads; a run takes
/// about a tenth of a second, so many seeds run side by side in processes or one after another.
public final class Simulation {
    /// What can happen next.
    enum Event {
        case tick(Int, incarnation: Int)
        case arrival(Message)
        case synced(Int, incarnation: Int)
        case applied(Int, incarnation: Int)
        case checkpoint(Int, incarnation: Int)
        case fetched(Int, incarnation: Int)
        case snapshotStatus(Int, incarnation: Int, to: PeerID, isDelivered: Bool)
        case restart(Int)
        case request(Command, PeerID)
        case reply(client: Int, sequence: UInt32, Reply)
        case client(Int, token: Int)
        case fault(FaultKind)
        case partitionEnd
        case heal
        case inspection
    }

    /// What a node tells a client.
    enum Reply {
        case answer(RegisterOperation.Answer, from: PeerID)
        case refused
    }

    public let scenario: Scenario
    public internal(set) var statistics = Statistics()
    var queue = EventQueue<Event>()
    var network: Network
    var nodes: [SimulatedNode] = []
    var clients: [SimulatedClient] = []
    var histories: Histories
    var checker: SafetyChecker
    var trace = Trace(keeping: Limits.tracedEvents)
    var chance: Chance
    /// The members at the start.
    let firstMembers: ConfState
    /// Whether the faults are over.
    var isHealing = false
    var isDone = false
    /// When the faults ended.
    var healedAt: Microseconds = 0

    /// Streams of chance, one for each part.
    struct Chance {
        var network: SeededGenerator
        var disk: SeededGenerator
        var faults: SeededGenerator
        var clients: SeededGenerator
        var nodes: SeededGenerator
        var members: SeededGenerator

        init(seed: UInt64) {
            network = SeededGenerator(seed: seed, stream: 2)
            disk = SeededGenerator(seed: seed, stream: 3)
            faults = SeededGenerator(seed: seed, stream: 4)
            clients = SeededGenerator(seed: seed, stream: 5)
            nodes = SeededGenerator(seed: seed, stream: 6)
            members = SeededGenerator(seed: seed, stream: 8)
        }
    }

    /// A run that has not begun.
    public init(_ scenario: Scenario) {
        precondition(
            scenario.nodes <= Limits.nodes && scenario.voters <= scenario.nodes
                && scenario.voters >= 1, "a cluster has 1 to \(Limits.nodes) nodes")
        self.scenario = scenario
        network = Network(nodes: scenario.nodes)
        histories = Histories(registers: scenario.registers)
        chance = Chance(seed: scenario.seed)
        firstMembers = ConfState(voters: (1...UInt64(scenario.voters)).map { PeerID($0) })
        var start: Snapshot?
        if !scenario.isBootstrapped {
            start = Snapshot(
                metadata: SnapshotMetadata(confState: firstMembers, index: 4, term: 1),
                data: KeyValueState().encoded())
        }
        checker = SafetyChecker(
            nodes: scenario.nodes, properties: scenario.properties, start: start,
            confState: firstMembers)
        for number in 1...scenario.nodes {
            let isMember = number <= scenario.voters
            let snapshot = isMember ? start : nil
            let hardState = HardState(
                term: snapshot == nil ? 0 : 1, commit: snapshot?.metadata.index ?? 0)
            let disk = SimulatedDisk(
                image: LogImage(snapshot: snapshot, hardState: hardState), checkpoint: snapshot,
                readsDurable: scenario.readsDurableLog)
            nodes.append(
                SimulatedNode(
                    id: PeerID(UInt64(number)), disk: disk,
                    isAsynchronous: scenario.asynchronousNodes >> UInt64(number - 1) & 1 == 1))
        }
        for number in 0..<scenario.clients {
            clients.append(SimulatedClient(number: UInt16(number)))
        }
    }

    /// Prints each event of the run.
    public func traceEvents(to printer: @escaping @Sendable (String) -> Void) {
        trace.printer = printer
    }

    /// Equal for equal runs, whatever the process.
    public var digest: UInt64 { trace.digest.value }

    /// Runs to the end, or to the first violation.
    public func run() -> Failure<Scenario>? {
        do throws(Violation) {
            try begin()
            while !isDone, let event = queue.pop() {
                statistics.steps += 1
                try handle(event)
            }
            if scenario.properties.contains(.linearizability),
                let detail = histories.firstViolation()
            {
                throw Violation(property: .linearizability, detail: detail)
            }
        } catch {
            summarize()
            return Failure(
                scenario: scenario, violation: error, step: statistics.steps, time: queue.now,
                events: trace.tail)
        }
        summarize()
        return nil
    }

    private func summarize() {
        statistics.runs = 1
        statistics.time = queue.now
        statistics.elections = checker.elections
        statistics.operations = histories.operations
        statistics.unanswered = histories.unanswered
        statistics.registersLost = histories.trackers.count { $0.isLost }
    }

    private func begin() throws(Violation) {
        for place in 0..<scenario.voters { try start(nodes[place]) }
        for place in clients.indices {
            wake(place, after: chance.clients.time(in: scenario.thinkTime))
        }
        for kind in FaultKind.allCases { scheduleFault(kind) }
        queue.push(.heal, after: scenario.faultTime)
    }

    private func handle(_ event: Event) throws(Violation) {
        switch event {
        case .tick(let place, let incarnation): try tick(nodes[place], incarnation)
        case .arrival(let message): try arrive(message)
        case .synced(let place, let incarnation):
            try whenAwake(place, incarnation, event, synced)
        case .applied(let place, let incarnation):
            try whenAwake(place, incarnation, event, applyNext)
        case .checkpoint(let place, let incarnation):
            try whenAwake(place, incarnation, event, checkpointIsDurable)
        case .fetched(let place, let incarnation):
            try whenAwake(place, incarnation, event, fetched)
        case .snapshotStatus(let place, let incarnation, let peer, let isDelivered):
            guard let node = alive(place, incarnation) else { return }
            node.raft?.reportSnapshot(peer, isDelivered ? .finished : .failed)
            try settle(node)
        case .restart(let place): if nodes[place].raft == nil { try start(nodes[place]) }
        case .request(let command, let peer): try serve(command, at: peer)
        case .reply(let client, let sequence, let reply): try end(client, sequence, reply)
        case .client(let place, let token): if clients[place].token == token { act(place) }
        case .fault(let kind): try strike(kind)
        case .partitionEnd: if !isHealing { endPartition() }
        case .heal: try heal()
        case .inspection: try inspect()
        }
    }

    /// The node at a place, if it is up and in the same life as when the event was scheduled.
    func alive(_ place: Int, _ incarnation: Int) -> SimulatedNode? {
        let node = nodes[place]
        return node.raft != nil && node.incarnation == incarnation ? node : nil
    }

    private func whenAwake(
        _ place: Int, _ incarnation: Int, _ event: Event,
        _ action: (SimulatedNode) throws(Violation) -> Void
    ) throws(Violation) {
        guard let node = alive(place, incarnation) else { return }
        if node.pausedUntil > queue.now {
            queue.push(event, after: node.pausedUntil - queue.now)
        } else {
            try action(node)
        }
    }

    func note(_ item: @autoclosure () -> TraceItem) {
        trace.add(item(), step: statistics.steps, time: queue.now)
    }
}
