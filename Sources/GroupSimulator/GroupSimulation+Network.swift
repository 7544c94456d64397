import Bytes
import Model
import Raft
import RaftDriver
import RaftLog
import Reactor
import Simulator
import Transport
import Wire

/// Carries a member's messages through the simulated network, in the bytes in which they travel.
struct SimulatedTransport: RaftTransport {
    private struct Context {
        let simulation: GroupSimulation
        let process: SimulatedProcess
        let peer: PeerID
    }

    private let context: Confined<Context>

    init(simulation: GroupSimulation, process: SimulatedProcess, peer: PeerID) {
        context = Confined(Context(simulation: simulation, process: process, peer: peer))
    }

    func send(_ messages: [Message]) {
        let process = context.value.process
        guard !process.isDead, process.doom == nil else { return }
        for message in messages { context.value.simulation.send(message, from: process) }
    }

    func address(of peer: PeerID) -> String? { "machine:\(peer.rawValue)" }

    func deliver(
        _ request: SnapshotRequest, to peer: PeerID
    ) async throws(StoreError) -> Int {
        let context = context
        let result: Result<Int, StoreError> = await withUnsafeContinuation { waiter in
            let (simulation, process) = (context.value.simulation, context.value.process)
            guard !process.isDead, process.doom == nil else {
                waiter.resume(
                    returning: .failure(StoreError(.connection, "the process is dead")))
                return
            }
            simulation.deliver(request, to: peer, from: process, waiter)
        }
        return try result.get()
    }
}

/// A piece of a snapshot between its sender's question and the answer.
struct PieceUnderWay {
    typealias Waiter = UnsafeContinuation<Result<Int, StoreError>, Never>

    var message: [UInt8]
    var payload: [UInt8]?
    var from: Int
    var life: Int
    var target: PeerID
    var waiter: Waiter
}

extension GroupSimulation {
    /// How long a message is on its way.
    func messageDelay() -> Microseconds {
        let isLate = !isHealing && chance.network.chance(scenario.lateShare)
        return isLate
            ? chance.network.time(in: 0...scenario.longDelay)
            : chance.network.time(in: scenario.delay)
    }

    private func isOpen(from: Int, to: Int) -> Bool {
        network.isOpen(from: PeerID(UInt64(from + 1)), to: PeerID(UInt64(to + 1)))
    }

    /// Why a message is lost; nil if it is not.
    private func loss(from: Int, to: Int) -> String? {
        if !isOpen(from: from, to: to) { return "the link is cut" }
        return !isHealing && chance.network.chance(scenario.lossShare) ? "by chance" : nil
    }

    func send(_ message: Message, from process: SimulatedProcess) {
        checker.sent(message)
        if message.kind == .voteResponse || message.kind == .appendResponse {
            let machine = machines[process.place]
            machine.promises += 1
            mayProbe(
                process.place,
                machine.promises <= Limits.firstPromises ? 1 : Limits.probeShare)
        }
        guard let place = places[message.to] else { return }
        if let why = loss(from: process.place, to: place) {
            note(.message(message, lost: why))
            statistics.messagesLost += 1
            // Some senders learn of it.
            if chance.network.chance(0.2) {
                queue.push(
                    .unreachable(process.place, life: process.life, message.to),
                    after: messageDelay())
            }
            return
        }
        let bytes = RaftCodec.encode([message], of: Self.group)
        queue.push(.message(bytes, to: message.to), after: messageDelay())
        if !isHealing, chance.network.chance(scenario.duplicateShare) {
            queue.push(.message(bytes, to: message.to), after: messageDelay())
        }
    }

    func arrive(_ bytes: [UInt8], at peer: PeerID, _ event: Event) {
        guard let place = places[peer],
            let machine = awake(place, machines[place].life, event), machine.peer == peer,
            let member = machine.group?.engine.member
        else { return }
        do throws(StoreError) {
            let (_, messages) = try RaftCodec.decode(bytes)
            for message in messages { note(.message(message, lost: nil)) }
            statistics.messagesDelivered += messages.count
            if !member.receive(messages) { hasStopped(machine) }
        } catch {
            checker.fail(.recovery, "a message cannot be read: \(error)")
        }
        settle(machine)
    }

    /// The member of a machine takes nothing more: its process is started anew, as a role that has
    /// stopped is.
    private func hasStopped(_ machine: GroupMachine) {
        if !machine.hasFailed {
            checker.fail(
                .recovery,
                "member \(machine.peer ?? .none) has stopped, though its disk works: "
                    + (machine.group?.engine.member.inPlace { $0.view.health.reason } ?? ""))
        }
        queue.push(.death(machine.place, life: machine.life, .killed), after: 10_000)
    }

    // MARK: Snapshots

    func deliver(
        _ request: SnapshotRequest, to peer: PeerID, from process: SimulatedProcess,
        _ waiter: PieceUnderWay.Waiter
    ) {
        let number = nextPiece
        nextPiece += 1
        let piece = PieceUnderWay(
            message: request.encoded,
            payload: request.piece.map { $0.payload.withBytes { Array($0) } },
            from: process.place, life: process.life, target: peer, waiter: waiter)
        pieces[number] = piece
        note(
            .machine(
                process.place,
                "sends member \(peer) "
                    + (request.piece.map { "byte \($0.offset)" } ?? "the question")
                    + " of snapshot \(request.header.index), \(request.header.size) bytes"))
        queue.push(
            .pieceAnswer(
                number, .failure(StoreError(.deadlineExceeded, "the piece got no answer"))),
            after: Limits.pieceTime)
        guard let place = places[peer], loss(from: process.place, to: place) == nil else { return }
        queue.push(.piece(number), after: messageDelay())
        if !isHealing, chance.network.chance(scenario.duplicateShare) {
            queue.push(.piece(number), after: messageDelay())
        }
    }

    /// A piece arrives: it is taken as one that came over the network.
    func arrive(piece number: UInt64, _ event: Event) {
        guard let piece = pieces[number], let place = places[piece.target],
            let machine = awake(place, machines[place].life, event),
            machine.peer == piece.target, let reactor = machine.reactor,
            let process = machine.process
        else { return }
        let service = machine.service
        let request = RPCRequest(
            method: RaftMethod.snapshotPiece.rawValue, message: piece.message,
            payload: piece.payload.map { Payload(copying: $0, pool: pool) })
        let context = Confined((simulation: self, process: process))
        Task(executorPreference: reactor) {
            let result: Result<Int, StoreError>
            do throws(StoreError) {
                let reply = try await service.handle(request)
                result = .success(
                    reply.message.enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
                )
            } catch {
                result = .failure(error)
            }
            let (simulation, process) = context.value
            simulation.answered(piece: number, result, by: process)
        }
        settle(machine)
    }

    private func answered(
        piece number: UInt64, _ result: Result<Int, StoreError>, by process: SimulatedProcess
    ) {
        guard !process.isDead, process.doom == nil, let piece = pieces[number],
            loss(from: process.place, to: piece.from) == nil
        else { return }
        queue.push(.pieceAnswer(number, result), after: messageDelay())
    }

    func answer(piece number: UInt64, with result: Result<Int, StoreError>, _ event: Event) {
        guard let piece = pieces[number] else { return }
        guard let machine = awake(piece.from, piece.life, event) else { return }
        pieces[number] = nil
        piece.waiter.resume(returning: result)
        settle(machine)
    }

    /// The sender of pieces is dead.
    func failPieces(of process: SimulatedProcess) {
        for number in pieces.keys.sorted() {
            guard let piece = pieces[number], piece.from == process.place,
                piece.life == process.life
            else { continue }
            pieces[number] = nil
            piece.waiter.resume(
                returning: .failure(StoreError(.connection, "the process is dead")))
        }
    }
}
