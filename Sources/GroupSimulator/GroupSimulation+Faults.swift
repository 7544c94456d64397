import Model
import Raft
import RaftDriver
import Reactor
import Simulator

/// What disturbs a simulated group.
enum GroupFault: CaseIterable, Sendable {
    case kill, powerCut, blackout, pause, slowDisk, slowTables, hang, fullDisk, overtaking
    case partition, members, transfer
}

extension GroupSimulation {
    private func rate(_ fault: GroupFault) -> Double {
        switch fault {
        case .kill: scenario.killRate
        case .powerCut: scenario.powerCutRate
        case .blackout: scenario.blackoutRate
        case .pause: scenario.pauseRate
        case .slowDisk: scenario.slowDiskRate
        case .slowTables: scenario.slowTablesRate
        case .overtaking: scenario.overtakingRate
        case .hang: scenario.hangRate
        case .fullDisk: scenario.fullDiskRate
        case .partition: scenario.partitionRate
        case .members: scenario.membershipRate
        case .transfer: scenario.transferRate
        }
    }

    func scheduleFault(_ fault: GroupFault) {
        let rate = rate(fault)
        guard rate > 0 else { return }
        let mean = 60_000_000 / rate
        queue.push(
            .fault(fault), after: Microseconds(mean * 2 * chance.faults.fraction()) + 1)
    }

    func strike(_ fault: GroupFault) {
        guard !isHealing else { return }
        scheduleFault(fault)
        let running = machines.filter { $0.process != nil }
        let struck = chance.faults.chance(scenario.leaderShare) ? leader : nil
        guard let machine = struck ?? chance.faults.element(of: running) else { return }
        let time = chance.faults.time(in: 200_000...4_000_000)
        switch fault {
        case .kill: crash(machine, .killed)
        case .powerCut: crash(machine, .powerless)
        case .blackout:
            note(.fault("all machines lose their power"))
            for machine in running { crash(machine, .powerless) }
        case .pause:
            note(.machine(machine.place, "is stopped for \(time) µs"))
            machine.pausedUntil = queue.now + time
            if let leader, chance.faults.chance(0.7) { standStill(leader) }
        case .slowDisk:
            note(.machine(machine.place, "has a slow disk"))
            machine.disk.slowness = chance.faults.int(in: 5...100)
            queue.push(.faultEnd(fault, machine.place), after: time)
        case .slowTables:
            note(.machine(machine.place, "has slow tables"))
            machine.disk.tablesSlowness = chance.faults.element(of: [200, 2000]) ?? 200
            queue.push(.faultEnd(fault, machine.place), after: 2 * time)
            if chance.faults.chance(0.7) {
                // While it applies something it falls behind.
                let isolation = chance.faults.time(in: 300_000...1_500_000)
                queue.push(.isolation(machine.place, isolation), after: time / 4)
            }
        case .overtaking: overtake()
        case .hang:
            note(.machine(machine.place, "has a disk that hangs for \(time) µs"))
            machine.disk.hangsUntil = queue.now + time
        case .fullDisk:
            note(.machine(machine.place, "has a full disk"))
            machine.disk.isFull = true
            queue.push(.faultEnd(fault, machine.place), after: time)
        case .partition:
            let leader = machines.first { $0.role == .leader }
            let what = network.partition(
                oneWay: scenario.cutsOneWay,
                leader: leader.map { PeerID(UInt64($0.place + 1)) }, from: &chance.faults)
            note(.fault(what))
            statistics.partitions += 1
            queue.push(.partitionEnd, after: time)
        case .members: changeMembers()
        case .transfer: transfer()
        }
    }

    func relieve(_ fault: GroupFault, _ place: Int) {
        let disk = machines[place].disk
        switch fault {
        case .slowDisk: disk.slowness = 1
        case .slowTables: disk.tablesSlowness = 1
        case .fullDisk: disk.isFull = false
        default: break
        }
        note(.machine(place, "is relieved"))
    }

    func endPartition() {
        guard !network.isWhole else { return }
        network.heal()
        note(.fault("all links are open"))
    }

    /// A leader and one other member are cut off with disks that hang, so that what the leader sends
    /// is in the other's log and not durable there when the next leader's entries come.
    private func overtake() {
        guard let leader, let group = leader.group else { return }
        let others = machines.filter { $0.process != nil && $0.peer != nil && $0 !== leader }
        guard let other = chance.faults.element(of: others) else { return }
        let time = chance.faults.time(in: 300_000...1_000_000)
        let hanging = time + chance.faults.time(in: 500_000...4_000_000)
        isolate([leader.place, other.place], for: time)
        other.disk.hangsUntil = queue.now + hanging
        if group.engine.member.inPlace({ $0.members }).voters.count <= 3 {
            // The others need its vote, which it gives when it has lost what only it has sent.
            leader.disk.hangsUntil = queue.now + time
            queue.push(.death(leader.place, life: leader.life, .powerless), after: time - 1)
        }
    }

    /// A leader stands still and is cut off until another has been elected, of which it then knows
    /// nothing.
    private func standStill(_ machine: GroupMachine) {
        let time = chance.faults.time(in: 3_000_000...5_000_000)
        note(.machine(machine.place, "is stopped until another leads"))
        machine.pausedUntil = queue.now + time
        machine.waitsForSuccessor = true
        isolate([machine.place], for: time)
    }

    /// A machine has begun to lead.
    func leads(_ machine: GroupMachine) {
        for other in machines where other.waitsForSuccessor && other !== machine {
            other.waitsForSuccessor = false
            other.pausedUntil = min(
                other.pausedUntil, queue.now + chance.faults.time(in: 20_000...200_000))
        }
    }

    /// Cuts machines off from all others.
    func isolate(_ places: [Int], for time: Microseconds) {
        guard !isHealing else { return }
        let names = places.map { "\($0 + 1)" }.joined(separator: ", ")
        note(.fault("machines \(names) are cut off for \(time) µs"))
        network.isolate(places.map { PeerID(UInt64($0 + 1)) })
        statistics.partitions += 1
        queue.push(.partitionEnd, after: time)
    }

    // MARK: Members

    var leader: GroupMachine? { machines.first { $0.role == .leader && $0.group != nil } }

    private func transfer() {
        guard let machine = leader, let group = machine.group else { return }
        let others = group.engine.member.inPlace { $0.members }.voters
            .filter { $0 != machine.peer }
        guard let target = chance.members.element(of: others) else { return }
        note(.machine(machine.place, "is to hand leadership to member \(target)"))
        statistics.transfers += 1
        group.engine.member.inPlace { $0.transferLeadership(to: target) }
        settle(machine)
    }

    /// Adds a machine as a learner, promotes one, or removes a member.
    private func changeMembers() {
        guard let machine = leader, let group = machine.group, let reactor = machine.reactor,
            let process = machine.process
        else { return }
        let members = group.engine.member.inPlace { $0.members }
        let spare = machines.first { $0.peer == nil }
        let change: ConfChangeSingle
        if let learner = members.learners.first, chance.members.chance(0.8) {
            change = ConfChangeSingle(.addVoter, learner)
        } else if let spare, chance.members.chance(0.7) {
            let peer = PeerID(nextPeer)
            nextPeer += 1
            spare.peer = peer
            spare.disk = .empty()
            places[peer] = spare.place
            start(spare.place)
            change = ConfChangeSingle(.addLearner, peer)
        } else {
            let all = members.voters + members.learners
            guard members.voters.count > 1, let peer = chance.members.element(of: all) else {
                return
            }
            // As operators are helped to: a leader hands over before it is removed, for the others
            // may need its vote until they know that it is out.
            guard peer != machine.peer else { return transfer() }
            change = ConfChangeSingle(.removePeer, peer)
        }
        note(.machine(machine.place, "is to change the members: \(change.kind) \(change.peer)"))
        let context = Confined((simulation: self, process: process))
        let member = group.engine.member
        Task(executorPreference: reactor) {
            var outcome = "are changed"
            var isDone = false
            do throws(StoreError) {
                _ = try await member.change(ConfChangeV2(changes: [change]))
                isDone = true
            } catch {
                outcome = "are not changed: \(error)"
            }
            let (simulation, process) = context.value
            guard !process.isDead, process.doom == nil else { return }
            simulation.note(.machine(process.place, "says that the members " + outcome))
            if isDone { simulation.changed(change) }
        }
        settle(machine)
    }

    /// A change of the members is in force. A removed one is taken away, sometimes while it does not
    /// know of it.
    private func changed(_ change: ConfChangeSingle) {
        statistics.membershipChanges += 1
        guard change.kind == .removePeer, let place = places[change.peer] else { return }
        let machine = machines[place]
        machine.peer = nil
        places[change.peer] = nil
        machine.isRetiring = true
        queue.push(
            .death(place, life: machine.life, .killed),
            after: chance.members.time(in: 1...500_000))
    }

    // MARK: The end

    /// The faults are over.
    func heal() {
        note(.fault("the faults are over"))
        isHealing = true
        healedAt = queue.now
        network.heal()
        for machine in machines {
            machine.disk.isFull = false
            machine.disk.slowness = 1
            machine.disk.tablesSlowness = 1
            machine.disk.hangsUntil = 0
            machine.pausedUntil = min(machine.pausedUntil, queue.now)
            if machine.process == nil {
                start(machine.place)
            } else if machine.hasFailed || machine.isRetiring {
                crash(machine, .killed)
            }
        }
        for client in clients.indices where clients[client].pending == nil {
            wake(client, after: chance.clients.time(in: scenario.thinkTime))
        }
        queue.push(.inspection, after: 500_000)
    }

    /// Looks whether all is well again.
    func inspect() {
        let trouble = trouble()
        guard let trouble else {
            isDone = true
            return
        }
        guard queue.now - healedAt < scenario.healingTime else {
            checker.fail(
                .liveness,
                "\(scenario.healingTime / 1_000_000) s after the faults \(trouble)")
            return
        }
        queue.push(.inspection, after: 500_000)
    }

    /// What is not well; nil if all is.
    private func trouble() -> String? {
        guard let leader, let group = leader.group else { return "there is no leader" }
        for client in clients where !client.hasProven {
            return "client \(client.number) has no answer"
        }
        let view = group.engine.member.inPlace { $0.view }
        let members = view.members
        if !members.votersOutgoing.isEmpty { return "a joint configuration is not left" }
        for peer in members.voters + members.learners {
            guard let place = places[peer], let other = machines[place].group else {
                return "member \(peer) does not run"
            }
            let seen = other.engine.member.inPlace { $0.view }
            if seen.applied != view.last {
                return "member \(peer) has applied \(seen.applied) of \(view.last)"
            }
            if seen.members != members {
                checker.fail(
                    .sameConfiguration,
                    "member \(peer) has the members \(seen.members), the leader \(members)")
            }
        }
        return nil
    }
}
