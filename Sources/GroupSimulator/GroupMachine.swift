import Model
import Raft
import RaftDriver
import RaftLog
import Reactor
import Simulator
import Transport

/// A machine of a simulated group: what is on its disk, and the process on it while it runs.
final class GroupMachine {
    let place: Int
    /// The member that it is, if it is one.
    var peer: PeerID?
    var disk = SimulatedMachine()
    /// Counts its processes.
    var life = 0
    var process: SimulatedProcess?
    var reactor: Reactor?
    var group: MetadataGroup<RegisterMachine>?
    var service = RaftService()
    /// The earliest timer that an event is scheduled for.
    var wakeAt: Microseconds?
    var pausedUntil: Microseconds = 0
    /// The pause ends some time after another has begun to lead.
    var waitsForSuccessor = false
    /// An operation of the process failed for good: its member may have stopped.
    var hasFailed = false
    var role = Role.follower
    /// The last entry of its log when its process began: up to there it may know of members that are
    /// not applied yet.
    var lastAtStart: LogIndex = 0
    /// Promises that its process has made.
    var promises = 0
    /// It is no member any more, and its process is about to end.
    var isRetiring = false

    init(place: Int, peer: PeerID?) {
        self.place = place
        self.peer = peer
    }
}

extension GroupSimulation {
    /// Starts the process of a machine.
    func start(_ place: Int) {
        let machine = machines[place]
        guard let peer = machine.peer, machine.process == nil else { return }
        machine.life += 1
        let drift = scenario.drift * (2 * chance.machines.fraction() - 1)
        let seed = chance.machines.next()
        let process = SimulatedProcess(
            on: machine.disk, of: self, place: place, life: machine.life,
            clockRate: 1 + drift, generator: SeededGenerator(seed: seed))
        let reactor = Reactor.simulated(over: process, pool: pool)
        machine.process = process
        machine.reactor = reactor
        machine.service = RaftService()
        machine.wakeAt = nil
        machine.pausedUntil = 0
        machine.waitsForSuccessor = false
        machine.hasFailed = false
        machine.isRetiring = false
        machine.lastAtStart = .max
        machine.promises = 0
        machine.role = .follower
        // What it is going to find.
        probe(place, isKilled: true)
        note(.machine(place, "starts as member \(peer), life \(machine.life)"))
        checker.begins(peer, at: machine.disk.newestTables.index)
        let context = Confined((simulation: self, process: process))
        let options = options(of: peer, process, on: reactor)
        let stateMachine = RegisterMachine { command, index in
            let (simulation, process) = context.value
            guard !process.isDead, process.doom == nil else { return }
            simulation.checker.carriesOut(command, at: index, peer)
        }
        let transport = SimulatedTransport(
            simulation: self, process: process, peer: peer)
        let generator = SeededGenerator(seed: seed, stream: 1)
        Task(executorPreference: reactor) {
            let result: Result<MetadataGroup<RegisterMachine>, StoreError>
            do throws(StoreError) {
                result = .success(
                    try await MetadataGroup.open(
                        directory: Directory.member, role: "simulated", reactor: reactor,
                        stateMachine: stateMachine, options: options, transport: transport,
                        generator: generator))
            } catch {
                result = .failure(error)
            }
            let (simulation, process) = context.value
            simulation.opened(process, result)
        }
        settle(machine)
    }

    private func options(
        of peer: PeerID, _ process: SimulatedProcess, on reactor: Reactor
    ) -> MetadataGroupOptions {
        var options = MetadataGroupOptions(
            log: logOptions, checkpointBytes: scenario.checkpointBytes)
        options.trailingEntries = scenario.trailingEntries
        options.group = Self.group
        options.member = RaftMemberOptions(id: peer)
        options.member.tick = .milliseconds(scenario.tickMilliseconds)
        options.member.electionTicks = scenario.electionTicks
        options.member.heartbeatTicks = scenario.heartbeatTicks
        options.member.usesLease = scenario.usesLease
        options.member.snapshotPieceBytes = scenario.pieceBytes
        options.voters = (1...UInt64(scenario.voters)).map { PeerID($0) }
        let context = Confined((simulation: self, process: process))
        options.openTables = { _ in
            SimulatedTables(context.value.process, of: context.value.simulation, on: reactor)
        }
        options.member.notice = { text in
            let (simulation, process) = context.value
            guard !process.isDead else { return }
            simulation.note(.machine(process.place, text))
        }
        return options
    }

    /// The member of a process has started, or could not.
    private func opened(
        _ process: SimulatedProcess, _ result: Result<MetadataGroup<RegisterMachine>, StoreError>
    ) {
        guard !process.isDead, process.doom == nil,
            let machine = alive(process.place, process.life), let peer = machine.peer
        else {
            // Nobody waits for it any more: what it holds is closed with the rest.
            if case .success(let group) = result { process.leftOpen = group }
            return
        }
        switch result {
        case .success(let group):
            machine.group = group
            let member = group.engine.member
            machine.service.add(member, of: Self.group)
            let view = member.inPlace { $0.view }
            note(
                .machine(
                    process.place,
                    "has term \(view.term), last entry \(view.last), applied \(view.applied)"))
            machine.lastAtStart = view.last
            checker.began(peer, term: view.term, last: view.last)
        case .failure(let error):
            note(.machine(process.place, "could not start: \(error)"))
            // Room, memory or a disk that failed: it is tried again.
            let isExcused =
                machine.hasFailed || error.code == .noSpace || error.code == .overloaded
            if !isExcused {
                checker.fail(
                    .recovery, "member \(peer) does not start again: \(error)")
            }
            queue.push(
                .death(process.place, life: process.life, .killed),
                after: chance.faults.time(in: 1_000...500_000))
        }
    }

    // MARK: Steps

    /// Lets a process do what it can do now.
    func settle(_ machine: GroupMachine) {
        guard let process = machine.process, let reactor = machine.reactor else { return }
        var steps = 0
        while true {
            let hasWorked = reactor.step(jobs: scenario.jobsPerStep)
            if let doom = process.doom {
                crash(machine, doom)
                return
            }
            guard hasWorked else { break }
            steps += 1
            guard steps < Limits.steps else {
                checker.fail(.liveness, "machine \(machine.place + 1) spins")
                return
            }
        }
        observe(machine)
        guard let next = reactor.nextTimer else { return }
        let time = queue.now + process.wait(until: next)
        if let known = machine.wakeAt, known <= time { return }
        machine.wakeAt = time
        queue.push(.wake(machine.place, life: machine.life), after: time - queue.now)
    }

    private func observe(_ machine: GroupMachine) {
        guard let group = machine.group, let peer = machine.peer else { return }
        let state = group.engine.member.inPlace { $0.state }
        if state.role == .leader, machine.role != .leader { leads(machine) }
        machine.role = state.role
        checker.observe(peer, state.role, state.term)
    }

    func snapshotInstalled() { statistics.snapshotsInstalled += 1 }

    /// Tables of a member after entry `index`.
    func tablesApplied(_ tables: InMemoryTables, through index: UInt64, _ process: SimulatedProcess)
    {
        guard !process.isDead, process.doom == nil, let peer = machines[process.place].peer else {
            return
        }
        statistics.entriesApplied += 1
        checker.state(SimulatedMachine.TableImage.digest(of: tables), after: index, peer)
        // A change of the members is in force before its entry is applied, and no later one is.
        if let group = machines[process.place].group, index > machines[process.place].lastAtStart {
            let members = group.engine.member.inPlace { $0.members }
            checker.configuration(members, after: index, peer)
        }
    }

    // MARK: Operations

    /// Schedules the end of an operation.
    func schedule(_ operation: SimulatedOperation, number: UInt64, of process: SimulatedProcess) {
        let range: ClosedRange<Microseconds>
        switch operation {
        case .synchronize, .synchronizeDirectory, .write(_, _, _, isDurable: true):
            range = scenario.syncTime
        default: range = scenario.accessTime
        }
        var time = chance.disk.time(in: range) * Microseconds(process.machine.slowness)
        if process.machine.hangsUntil > queue.now {
            time += process.machine.hangsUntil - queue.now
        }
        queue.push(.operation(process.place, life: process.life, number: number), after: time)
    }

    func endOperation(_ number: UInt64, on machine: GroupMachine) {
        guard let process = machine.process, let running = process.running[number],
            let result = process.end(number)
        else { return }
        note(.operation(place: machine.place, OperationNote(running.operation), result: result))
        machine.reactor?.complete(number, result)
        settle(machine)
    }

    /// Whether a process dies as it asks for something that is to be durable.
    ///
    /// - Parameter share: how often it does beside.
    func diesAtPersistPoint(_ process: SimulatedProcess, share: Double = 0) -> Bool {
        persistPoints += 1
        mayProbe(process.place, share > 0 ? 1 : Limits.probeShare)
        guard !isHealing else { return false }
        let isNow =
            persistPoints == scenario.crashAtPersistPoint
            || chance.faults.chance(max(scenario.persistPointCrash, share))
        if isNow { process.doom = chance.faults.chance(0.5) ? .killed : .powerless }
        return isNow
    }

    /// The error that an operation fails with, having done nothing; nil if it goes well.
    func failure(
        of operation: SimulatedOperation, on disk: SimulatedMachine, _ place: Int
    ) -> Int32? {
        guard !isHealing else { return nil }
        if disk.isFull, disk.needsRoom(operation) { return FaultCode.noSpace }
        if scenario.errorShare > 0, chance.disk.chance(scenario.errorShare) {
            if case .close = operation { return nil }
            machines[place].hasFailed = true
            queue.push(
                .death(place, life: machines[place].life, .killed),
                after: chance.faults.time(in: 100_000...2_000_000))
            return FaultCode.io
        }
        if scenario.shortageShare > 0, chance.disk.chance(scenario.shortageShare) {
            switch operation {
            case .write, .open, .synchronize: return FaultCode.noMemory
            default: return nil
            }
        }
        return nil
    }

    private enum FaultCode {
        static let noSpace: Int32 = 28
        static let io: Int32 = 5
        static let noMemory: Int32 = 12
    }

    // MARK: Ends

    /// A process ends, or its machine has no power any more; it comes again after a while.
    func crash(_ machine: GroupMachine, _ death: Death) {
        guard machine.process != nil else { return }
        note(.machine(machine.place, "CRASHED: \(death.rawValue)"))
        statistics.crashes += 1
        bury(machine)
        switch death {
        case .killed: machine.disk.files.forgetUnnamed()
        case .powerless: machine.disk.cutPower(&chance.disk)
        }
        guard machine.peer != nil else { return }
        let time = isHealing ? 100_000 : chance.faults.time(in: scenario.downTime)
        queue.push(.start(machine.place), after: time)
    }

    /// Ends the tasks of a process that nobody sees any more, so that what they hold is freed: every
    /// operation fails, and its clock runs on.
    func bury(_ machine: GroupMachine) {
        guard let process = machine.process, let reactor = machine.reactor else { return }
        process.die()
        failPieces(of: process)
        let end = Confined(End())
        let groups = [machine.group, process.leftOpen].compactMap { $0 }
        Task(executorPreference: reactor) {
            for group in groups { try? await group.close() }
            end.value.isReached = true
        }
        var steps = 0
        while steps < Limits.lastSteps {
            steps += 1
            for number in process.abandon() { reactor.complete(number, -5) }
            if reactor.step() { continue }
            if let next = reactor.nextTimer {
                process.clockAfterDeath = max(process.clockAfterDeath, next.nanoseconds)
                if end.value.isReached, steps > 100 { break }
            } else if process.order.isEmpty {
                break
            }
        }
        machine.process = nil
        machine.reactor = nil
        machine.group = nil
        machine.role = .follower
    }

    private final class End {
        var isReached = false
    }
}

extension SimulatedMachine {
    /// Whether an operation takes room on the disk.
    fileprivate func needsRoom(_ operation: SimulatedOperation) -> Bool {
        switch operation {
        case .allocate(_, let mode, _, _): mode == 0
        case .open(let path, let flags): flags & 0o100 != 0 && files.find(path) == nil
        case .makeDirectory: true
        default: false
        }
    }
}

extension OperationNote {
    init(_ operation: SimulatedOperation) {
        switch operation {
        case .read(let descriptor, let memory, let offset):
            self.init(name: "reads", descriptor: descriptor, offset: offset, length: memory.count)
        case .write(let descriptor, let bytes, let offset, _):
            self.init(name: "writes", descriptor: descriptor, offset: offset, length: bytes.count)
        case .synchronize(let descriptor): self.init(name: "synced", descriptor: descriptor)
        case .allocate(let descriptor, _, let offset, let length):
            self.init(name: "allocates", descriptor: descriptor, offset: offset, length: length)
        case .truncate(let descriptor, let size):
            self.init(name: "truncates", descriptor: descriptor, offset: size)
        case .open(let path, _): self.init(name: "opens", path: path)
        case .close(let descriptor): self.init(name: "closes", descriptor: descriptor)
        case .remove(let path): self.init(name: "removes", path: path)
        case .makeDirectory(let path): self.init(name: "makes", path: path)
        case .rename(let from, let target):
            self.init(name: "renames", path: "\(from) \(target)")
        case .synchronizeDirectory(let path): self.init(name: "synced names of", path: path)
        case .ask(let path): self.init(name: "looks at", path: path)
        }
    }
}
