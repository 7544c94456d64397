import Model
import Raft
import RaftDriver
import Simulator

/// A client of a simulated group: one operation after another, each repeated at other machines until
/// it is answered or given up.
struct RegisterClient {
    /// A question on its way to a machine.
    struct Attempt: Sendable {
        var command: RegisterCommand
        var call: CallID
        /// It asks that the call be answered with a refusal if it was not answered before.
        var settles = false
    }

    /// What a machine tells a client.
    enum Reply: Sendable {
        case answer(RegisterOperation.Answer, from: Int)
        /// It was not carried out and never will be.
        case settled
        case refused(StoreError)
    }

    struct Pending {
        var command: RegisterCommand
        var operation: OpenOperation
        var attempts = 0
        /// A machine was asked and has not refused.
        var isAsked = false
        /// It is not asked for any more; only whether it was done.
        var settles = false
    }

    let number: UInt16
    let identity: Identity128
    var sequence: UInt64 = 0
    var pending: Pending?
    /// Counts wake-ups: those scheduled for an earlier state are void.
    var token = 0
    /// The machine that answered last.
    var place: Int?
    /// Whether its operation began after the faults, and whether one such ended.
    var beganHealed = false
    var hasProven = false

    init(_ number: UInt16, _ generator: inout SeededGenerator) {
        self.number = number
        identity = Identity128(high: generator.next(), low: generator.next())
    }
}

extension GroupSimulation {
    /// Wakes a client after a while; what woke it before is void.
    func wake(_ client: Int, after delay: Microseconds) {
        clients[client].token += 1
        queue.push(.client(client, token: clients[client].token), after: delay)
    }

    /// A client begins an operation, or repeats the one that was not answered in time.
    func act(_ client: Int) {
        if let pending = clients[client].pending {
            if pending.isAsked { clients[client].place = nil }
            let limit = pending.settles ? Limits.settlingAttempts : scenario.attempts
            if pending.attempts >= limit, !isHealing {
                let settles = !pending.settles && chance.clients.chance(scenario.settleShare)
                if isRead(pending) || !settles {
                    giveUp(client)
                    return
                }
                clients[client].pending?.settles = true
                clients[client].pending?.attempts = 0
            }
        } else {
            if isHealing, clients[client].hasProven { return }
            begin(client)
        }
        ask(client)
    }

    private func isRead(_ pending: RegisterClient.Pending) -> Bool {
        pending.command.request == .read
    }

    private func giveUp(_ client: Int) {
        let isResting = !isHealing && chance.clients.chance(scenario.restShare)
        guard let pending = clients[client].pending else { return }
        histories.abandon(pending.operation)
        note(.client(client, "gives up #\(pending.command.sequence)"))
        clients[client].pending = nil
        wake(
            client,
            after: chance.clients.time(in: isResting ? 0...scenario.longRest : scenario.thinkTime))
    }

    private func begin(_ client: Int) {
        clients[client].sequence += 1
        if !isHealing, chance.clients.chance(scenario.wanderShare) { clients[client].place = nil }
        clients[client].beganHealed = isHealing
        let register = histories.register(from: &chance.clients)
        let request = histories.request(
            of: register, readShare: scenario.readShare, from: &chance.clients)
        let command = RegisterCommand(
            client: clients[client].number, sequence: clients[client].sequence,
            register: register, request: request,
            padding: scenario.padding > 0 ? chance.clients.int(in: 0...scenario.padding) : 0)
        clients[client].pending = RegisterClient.Pending(
            command: command, operation: histories.call(request, on: register))
    }

    private func ask(_ client: Int) {
        clients[client].pending?.attempts += 1
        clients[client].pending?.isAsked = true
        guard let pending = clients[client].pending else { return }
        let place = clients[client].place ?? machineToAsk()
        note(
            .client(
                client,
                "asks machine \(place + 1) for #\(pending.command.sequence) "
                    + "r\(pending.command.register) \(pending.command.request)"
                    + (pending.settles ? ", to be settled" : "")
                    + ", attempt \(pending.attempts)"))
        let attempt = RegisterClient.Attempt(
            command: pending.command,
            call: CallID(
                client: clients[client].identity, sequence: pending.command.sequence,
                answeredBelow: pending.command.sequence, isRepeat: pending.attempts > 1),
            settles: pending.settles)
        if isHealing || !chance.network.chance(scenario.lossShare) {
            queue.push(.request(attempt, place), after: messageDelay())
            if !isHealing, chance.network.chance(scenario.duplicateShare) {
                queue.push(.request(attempt, place), after: messageDelay())
            }
            if !isHealing, chance.network.chance(scenario.lateRequestShare) {
                let delay = chance.network.time(in: 0...scenario.longRequest)
                let goesToLeader = chance.network.chance(0.5)
                queue.push(
                    .request(attempt, goesToLeader ? leader?.place ?? place : place), after: delay)
            }
        }
        let patience = isHealing ? Microseconds(min(pending.attempts, 4)) : 1
        wake(client, after: scenario.requestTimeout * patience)
    }

    /// Any machine; once the faults are over, one with a member.
    private func machineToAsk() -> Int {
        let machines = machines.filter { !isHealing || $0.peer != nil }
        return chance.clients.element(of: machines)?.place ?? 0
    }

    /// Where a refusal says that the leader is.
    private func hint(_ error: StoreError) -> Int? {
        guard let word = error.leader?.split(separator: ":").last, let peer = UInt64(word),
            chance.clients.chance(0.7)
        else { return nil }
        return places[PeerID(peer)]
    }

    // MARK: At a machine

    func serve(_ attempt: RegisterClient.Attempt, at place: Int, _ event: Event) {
        guard let machine = awake(place, machines[place].life, event),
            let group = machine.group, let reactor = machine.reactor,
            let process = machine.process
        else { return }
        let serving = Confined(Serving(simulation: self, process: process, group: group))
        Task(executorPreference: reactor) {
            await GroupSimulation.serve(attempt, at: place, serving)
        }
        settle(machine)
    }

    /// Whose answer it will be.
    private struct Serving {
        let simulation: GroupSimulation
        let process: SimulatedProcess
        let group: MetadataGroup<RegisterMachine>

        func end(_ attempt: RegisterClient.Attempt, _ reply: RegisterClient.Reply) {
            guard !process.isDead, process.doom == nil else { return }
            simulation.reply(attempt, reply)
        }
    }

    private static func serve(
        _ attempt: RegisterClient.Attempt, at place: Int, _ serving: Confined<Serving>
    ) async {
        do throws(StoreError) {
            let reply = try await answer(attempt, by: serving.value.group, at: place)
            serving.value.end(attempt, reply)
        } catch {
            serving.value.end(attempt, .refused(error))
        }
    }

    private static func answer(
        _ attempt: RegisterClient.Attempt, by group: MetadataGroup<RegisterMachine>, at place: Int
    ) async throws(StoreError) -> RegisterClient.Reply {
        let command = attempt.command
        if attempt.settles {
            let refusal = StoreError(.cancelled, "given up by its client")
            do throws(StoreError) {
                return .answer(try await group.settle(attempt.call, refusal), from: place)
            } catch {
                if error == refusal { return .settled }
                throw error
            }
        }
        guard command.request == .read else {
            return .answer(try await group.propose(command, for: attempt.call), from: place)
        }
        let value = try await group.read { tables throws(StoreError) in
            RegisterMachine.value(of: command.register, in: tables)
        }
        return .answer(.value(value), from: place)
    }

    private func reply(_ attempt: RegisterClient.Attempt, _ reply: RegisterClient.Reply) {
        guard isHealing || !chance.network.chance(scenario.lossShare) else { return }
        queue.push(.reply(attempt, reply), after: messageDelay())
    }

    /// An answer is there: that to the operation that waits, or a late one.
    func end(_ attempt: RegisterClient.Attempt, _ reply: RegisterClient.Reply) {
        let client = Int(attempt.command.client)
        let sequence = attempt.command.sequence
        let isWrite = attempt.command.request != .read
        if case .answer = reply, isWrite {
            checker.answered(client: UInt16(client), sequence: sequence)
        }
        guard let pending = clients[client].pending, pending.command.sequence == sequence else {
            return
        }
        switch reply {
        case .refused(let error):
            note(.client(client, "#\(sequence) was refused: \(error)"))
            switch error.code {
            case .forgotten where !pending.settles, .corrupt, .versionMismatch, .internal:
                checker.fail(
                    .exactlyOnce, "client \(client) is told of #\(sequence), which waits: \(error)")
            case .cancelled where isWrite && pending.settles:
                // An earlier word to settle it was logged.
                end(attempt, .settled)
                return
            default: break
            }
            clients[client].pending?.isAsked = false
            clients[client].place = hint(error)
            wake(client, after: chance.clients.time(in: 1_000...100_000))
        case .settled:
            note(.client(client, "#\(sequence) is settled"))
            checker.settles(client: UInt16(client), sequence: sequence)
            giveUp(client)
        case .answer(let answer, let place):
            note(.client(client, "#\(sequence) gave \(answer)"))
            clients[client].pending = nil
            clients[client].place = place
            if clients[client].beganHealed { clients[client].hasProven = true }
            if !histories.end(pending.operation, with: answer) {
                checker.fail(
                    .linearizability,
                    "no order explains that client \(client) got \(answer) for "
                        + "\(pending.command.request) of register \(pending.command.register)")
            }
            wake(client, after: chance.clients.time(in: scenario.thinkTime))
        }
    }
}
