import Raft

// The clients: each asks for one thing after another and repeats what is not answered.

extension Simulation {
    /// Wakes a client after a while; what woke it before is void.
    func wake(_ place: Int, after delay: Microseconds) {
        clients[place].token += 1
        queue.push(.client(place, token: clients[place].token), after: delay)
    }

    /// A client begins an operation, or repeats the one that was not answered in time.
    func act(_ place: Int) {
        if let pending = clients[place].pending {
            clients[place].node = nil
            if pending.attempts >= Limits.attemptsPerOperation, !isHealing {
                histories.abandon(pending.operation)
                note(.client(place, .gaveUp(pending.command)))
                clients[place].pending = nil
                wake(place, after: chance.clients.time(in: scenario.thinkTime))
                return
            }
        } else {
            if isHealing, clients[place].hasProven { return }
            begin(place)
        }
        ask(place)
    }

    private func begin(_ place: Int) {
        clients[place].sequence += 1
        clients[place].beganHealed = isHealing
        let register = histories.register(from: &chance.clients)
        let request = histories.request(
            of: register, readShare: scenario.readShare, from: &chance.clients)
        let command = Command(
            client: clients[place].number, sequence: clients[place].sequence, register: register,
            request: request,
            padding: scenario.padding > 0 ? chance.clients.int(in: 0...scenario.padding) : 0)
        clients[place].pending = SimulatedClient.Pending(
            command: command, operation: histories.call(request, on: register))
    }

    private func ask(_ place: Int) {
        clients[place].pending?.attempts += 1
        guard let pending = clients[place].pending else { return }
        let node = clients[place].node ?? nodeToAsk()
        note(.client(place, .asked(pending.command, node, attempt: pending.attempts)))
        if isHealing || !chance.network.chance(scenario.lossShare) {
            queue.push(.request(pending.command, node), after: messageDelay())
        }
        // Once the faults are over it waits longer each time, lest repetitions pile up in a cluster
        // that is slower than it is impatient.
        let patience = isHealing ? Microseconds(min(pending.attempts, 4)) : 1
        wake(place, after: scenario.requestTimeout * patience)
    }

    /// Any node; once the faults are over, a member.
    private func nodeToAsk() -> PeerID {
        let members = isHealing ? checker.confState.all : nodes.map(\.id)
        return chance.clients.element(of: members) ?? nodes[0].id
    }

    /// A node answers a client.
    func reply(to client: Int, _ sequence: UInt32, _ reply: Reply) {
        guard isHealing || !chance.network.chance(scenario.lossShare) else { return }
        queue.push(.reply(client: client, sequence: sequence, reply), after: messageDelay())
    }

    /// An answer is there: that to the operation that waits, or a late one.
    func end(_ place: Int, _ sequence: UInt32, _ reply: Reply) throws(Violation) {
        guard let pending = clients[place].pending, pending.command.sequence == sequence else {
            return
        }
        switch reply {
        case .refused:
            note(.client(place, .refused(pending.command)))
            clients[place].node = nil
            wake(place, after: chance.clients.time(in: 1_000...100_000))
        case .answer(let answer, let node):
            note(.client(place, .answered(pending.command, answer)))
            clients[place].pending = nil
            clients[place].node = node
            if clients[place].beganHealed { clients[place].hasProven = true }
            let isExplained = histories.end(pending.operation, with: answer)
            if !isExplained, scenario.properties.contains(.linearizability) {
                throw Violation(
                    property: .linearizability,
                    detail: "no order explains that client \(place) got \(answer) for "
                        + "\(pending.command.request) of register \(pending.command.register)")
            }
            wake(place, after: chance.clients.time(in: scenario.thinkTime))
        }
    }
}
