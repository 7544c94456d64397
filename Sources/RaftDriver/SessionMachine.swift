import Model

/// What the proposer of a call is told.
public enum CallOutcome<Answer: Sendable>: Sendable {
    /// It was carried out.
    case applied(Answer)
    /// It had been carried out before, with this answer.
    case again(Answer)
    /// It was not, now or before.
    case refused(StoreError)

    @inlinable
    public func get() throws(StoreError) -> Answer {
        switch self {
        case .applied(let answer), .again(let answer): return answer
        case .refused(let error): throw error
        }
    }
}

/// A state machine that carries each call out once, however often it is logged: it remembers what
/// it has answered, in tables beside those of the machine within, and gives it again.
///
/// A repeat whose first attempt stands in the log before it is answered from that, on whichever
/// member it was proposed. What is forgotten is refused with `forgotten`, not done again.
public struct SessionMachine<Machine: StateMachine>: StateMachine {
    @usableFromInline let machine: Machine
    @usableFromInline let clock: SessionClock
    @usableFromInline let limits: SessionLimits

    init(_ machine: Machine, clock: SessionClock, limits: SessionLimits = SessionLimits()) {
        self.machine = machine
        self.clock = clock
        self.limits = limits
    }

    public var tables: [MetadataTable] { machine.tables + SessionTable.all }
    public var format: TablesFormat { machine.format }

    @inlinable
    public func encode(_ command: GroupCommand<Machine.Command>) -> [UInt8] {
        switch command {
        case .plain(let command): machine.encode(command)
        case .call(let call, let time, let command):
            Self.envelope(.call, call, time, machine.encode(command))
        case .settled(let call, let time, let error): Self.envelope(call, time, error)
        }
    }

    @usableFromInline
    static func envelope(
        _ kind: GroupCommandKind, _ call: CallID, _ time: UInt64, _ body: [UInt8]
    ) -> [UInt8] {
        CallEnvelope(kind, call, time: time).encoded(body)
    }

    @usableFromInline
    static func envelope(_ call: CallID, _ time: UInt64, _ error: StoreError) -> [UInt8] {
        envelope(.settled, call, time, error.record)
    }

    public func decode(
        _ bytes: [UInt8]
    ) throws(StoreError) -> GroupCommand<Machine.Command> {
        guard CallEnvelope.isEnvelope(bytes) else { return .plain(try machine.decode(bytes)) }
        let envelope = try CallEnvelope(parsing: bytes)
        let body = Array(bytes[CallEnvelope.size...])
        switch envelope.kind {
        case .call:
            return .call(envelope.call, time: envelope.time, try machine.decode(body))
        case .settled:
            return .settled(envelope.call, time: envelope.time, try StoreError(record: body))
        }
    }

    @inlinable
    public func apply(
        _ command: GroupCommand<Machine.Command>, at index: UInt64,
        in transaction: some MetadataTransaction
    ) -> CallOutcome<Machine.Answer> {
        switch command {
        case .plain(let command):
            return .applied(machine.apply(command, at: index, in: transaction))
        case .call(let call, let time, let command):
            switch CallBeginning(of: call, at: time, in: transaction, limits) {
            case .fresh(let fresh):
                let answer = machine.apply(command, at: index, in: transaction)
                fresh.remember(machine.encode(answer, to: command))
                return .applied(answer)
            case .remembered(let answer): return outcome(answer)
            case .refused(let error): return .refused(error)
            }
        case .settled(let call, let time, let error):
            switch CallBeginning(of: call, at: time, in: transaction, limits) {
            case .fresh(let fresh):
                fresh.remember(error)
                return .refused(error)
            case .remembered(let answer): return outcome(answer)
            case .refused(let error): return .refused(error)
            }
        }
    }

    @usableFromInline
    func outcome(_ answer: RememberedAnswer) -> CallOutcome<Machine.Answer> {
        do throws(StoreError) {
            switch answer.kind {
            case .answer: return .again(try machine.decode(answer: answer.bytes))
            case .refusal: return .refused(try StoreError(record: answer.bytes))
            }
        } catch {
            return .refused(error)
        }
    }

    @usableFromInline
    func result(_ answer: RememberedAnswer) -> Result<Machine.Answer, StoreError> {
        let outcome = outcome(answer)
        return Result { () throws(StoreError) in try outcome.get() }
    }

    /// What was answered to `call`; nil if nothing was, or nothing yet. Throws `forgotten`.
    func answer(
        to call: CallID, in tables: some MetadataReader
    ) throws(StoreError) -> CallOutcome<Machine.Answer>? {
        let key = SessionTable.key(call.client)
        guard let record = tables.get(SessionTable.sessions, key) else { return nil }
        guard let session = Session(parsing: record, forgettingBelow: 0) else {
            throw Session.damaged(call.client)
        }
        if let answer = session.answer(to: call.sequence) { return outcome(answer) }
        guard call.sequence >= session.forgottenBelow else { throw Session.forgotten }
        return nil
    }

    public func encode(
        _ answer: CallOutcome<Machine.Answer>, to command: GroupCommand<Machine.Command>
    ) -> [UInt8] {
        preconditionFailure("answers are remembered once, by this machine")
    }

    public func decode(
        answer bytes: [UInt8]
    ) throws(StoreError) -> CallOutcome<Machine.Answer> {
        throw StoreError(.internal, "answers are remembered once, by the machine within")
    }

    @inlinable
    public func applied(
        _ command: GroupCommand<Machine.Command>, answer: CallOutcome<Machine.Answer>,
        at index: UInt64
    ) {
        switch command {
        case .plain(let command): applied(command, answer, at: index)
        case .call(_, let time, let command):
            observe(time)
            applied(command, answer, at: index)
        case .settled(_, let time, _): observe(time)
        }
    }

    @inlinable
    func applied(
        _ command: Machine.Command, _ outcome: CallOutcome<Machine.Answer>, at index: UInt64
    ) {
        if case .applied(let answer) = outcome {
            machine.applied(command, answer: answer, at: index)
        }
    }

    @usableFromInline
    func observe(_ time: UInt64) { clock.observe(time) }

    public func reset(from tables: some MetadataReader) throws(StoreError) {
        try machine.reset(from: tables)
    }

    public func recovered(in transaction: some MetadataTransaction) {
        machine.recovered(in: transaction)
    }

    /// The clock goes on from where `tables` are. Apart from `reset`, which may read nothing and is
    /// run once then.
    func setClock(by tables: some MetadataReader) {
        clock.observe(SessionLedger.read(in: tables).time)
    }
}

/// What is to be done about a call. Beside the machine and not in it, so that it is compiled once.
@usableFromInline
enum CallBeginning {
    case fresh(FreshCall)
    case remembered(RememberedAnswer)
    case refused(StoreError)

    @usableFromInline
    init(
        of call: CallID, at time: UInt64, in transaction: any MetadataTransaction,
        _ limits: SessionLimits
    ) {
        let sessions = Sessions(transaction: transaction, limits: limits)
        switch sessions.begin(call, at: time) {
        case .fresh(let opened):
            self = .fresh(FreshCall(sessions: sessions, opened: opened, sequence: call.sequence))
        case .remembered(let answer): self = .remembered(answer)
        case .refused(let error): self = .refused(error)
        }
    }
}

/// A call that is carried out for the first time.
@usableFromInline
struct FreshCall {
    let sessions: Sessions
    let opened: Sessions.Opened
    let sequence: UInt64

    @usableFromInline
    func remember(_ answer: [UInt8]) {
        sessions.remember(
            RememberedAnswer(sequence: sequence, kind: .answer, bytes: answer), opened)
    }

    @usableFromInline
    func remember(_ refusal: StoreError) {
        sessions.remember(
            RememberedAnswer(sequence: sequence, kind: .refusal, bytes: refusal.record), opened)
    }
}
