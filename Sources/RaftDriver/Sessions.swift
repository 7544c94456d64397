import Model

/// How much is remembered of calls that were answered. All members of a group must forget the same:
/// what is changed here asks for another version of `CallEnvelope`.
@usableFromInline
struct SessionLimits: Sendable {
    /// Answers to one client, and their bytes: beyond them the oldest go, but not the last one.
    var answers = 64
    var answerBytes = 256 << 10
    /// Clients, and KiB of all that is remembered: beyond them those go that were idle for `idle`,
    /// and new ones are refused while there are none.
    var sessions: UInt64 = 65_536
    var kibibytes: UInt64 = 256 << 10
    /// How long a client is remembered that makes no more calls, in milliseconds of the log's time.
    var lifetime: UInt64 = 600_000
    var idle: UInt64 = 60_000
    /// Clients looked at with one call, at most.
    var looks = 8
}

/// The tables of what was answered, the same in every role. Their numbers are part of the format on
/// disk.
enum SessionTable {
    /// Client (16 bytes) → `Session`.
    static let sessions = MetadataTable(32)
    /// The empty key → `SessionLedger`.
    static let ledger = MetadataTable(33)
    /// Place in the queue (8 bytes, never given twice) → client, and when to look at it: clients in
    /// about the order in which they are to be forgotten.
    static let queue = MetadataTable(34)

    static let all = [sessions, ledger, queue]

    static func key(_ client: Identity128) -> [UInt8] {
        var key: [UInt8] = []
        key.reserveCapacity(16)
        key.appendBigEndian(client.high)
        key.appendBigEndian(client.low)
        return key
    }

    static func place(_ number: UInt64) -> [UInt8] {
        var key: [UInt8] = []
        key.reserveCapacity(8)
        key.appendBigEndian(number)
        return key
    }
}

/// What a group remembers of the calls of its clients, within one transaction.
///
/// A client is one sequence of calls, most often with one call at a time, so that one answer is
/// remembered of it. Each command looks at its own client and at a bounded number of others that
/// are due to be forgotten: never at all of them.
///
/// Pure: the same calls give the same tables on every member.
struct Sessions {
    /// By so much the log's time moves on before that is noted of a client, in milliseconds.
    static let tick: UInt64 = 1000

    /// What is to be done about a call.
    enum Standing {
        /// It is to be carried out, and its answer handed to `remember`.
        case fresh(Opened)
        case remembered(RememberedAnswer)
        case refused(StoreError)
    }

    /// A client whose call is being carried out.
    struct Opened {
        var key: [UInt8]
        var session: Session
    }

    let transaction: any MetadataTransaction
    let limits: SessionLimits

    /// Takes up `call`, logged at `proposed`.
    ///
    /// Of a client that calls often, more is looked at than its own record only once a `tick`.
    func begin(_ call: CallID, at proposed: UInt64) -> Standing {
        guard call.sequence < CallEnvelope.largestNumber else {
            return .refused(
                StoreError(.invalidArgument, "calls are not numbered \(call.sequence)"))
        }
        let key = SessionTable.key(call.client)
        guard let record = transaction.get(SessionTable.sessions, key) else {
            return admit(call, key, at: proposed)
        }
        // A client that says that it has its answer to this very call is not believed.
        let answered = min(call.answeredBelow, call.sequence)
        guard var session = Session(parsing: record, forgettingBelow: answered) else {
            return .refused(Session.damaged(call.client))
        }
        if proposed / Self.tick > session.lastUse / Self.tick {
            var ledger = SessionLedger.read(in: transaction)
            let found = ledger
            ledger.time = max(ledger.time, proposed)
            session.lastUse = ledger.time
            // So that it is not forgotten below.
            transaction.put(SessionTable.sessions, key, session.encoded)
            forgetThoseDue(&ledger)
            if ledger != found { ledger.write(to: transaction) }
        }
        if let answer = session.answer(to: call.sequence) { return .remembered(answer) }
        guard call.sequence >= session.forgottenBelow else { return .refused(Session.forgotten) }
        return .fresh(Opened(key: key, session: session))
    }

    /// A client that is not known.
    private func admit(_ call: CallID, _ key: [UInt8], at proposed: UInt64) -> Standing {
        var ledger = SessionLedger.read(in: transaction)
        defer { ledger.write(to: transaction) }
        ledger.time = max(ledger.time, proposed)
        forgetThoseDue(&ledger)
        guard !isFull(ledger) else {
            return .refused(
                StoreError(
                    .overloaded,
                    "\(ledger.tail - ledger.head) clients are remembered, no more can be at the "
                        + "moment: try again later"))
        }
        enqueue(key, due: ledger.time + limits.lifetime, &ledger)
        let session = Session(
            lastUse: ledger.time, forgottenBelow: min(call.answeredBelow, call.sequence))
        return .fresh(Opened(key: key, session: session))
    }

    /// Remembers the answer to a call that `begin` took up.
    func remember(_ answer: RememberedAnswer, _ opened: Opened) {
        var session = opened.session
        session.insert(answer, limits)
        let kibibytes = UInt32(clamping: (session.encodedSize + 1023) / 1024)
        if kibibytes != session.kibibytes {
            var ledger = SessionLedger.read(in: transaction)
            ledger.kibibytes -= min(ledger.kibibytes, UInt64(session.kibibytes))
            ledger.kibibytes += UInt64(kibibytes)
            session.kibibytes = kibibytes
            ledger.write(to: transaction)
        }
        transaction.put(SessionTable.sessions, opened.key, session.encoded)
    }

    // MARK: Forgetting

    private func isFull(_ ledger: SessionLedger) -> Bool {
        ledger.tail - ledger.head >= limits.sessions || ledger.kibibytes >= limits.kibibytes
    }

    private func forgetThoseDue(_ ledger: inout SessionLedger) {
        for _ in 0..<limits.looks {
            guard ledger.head < ledger.tail else { return }
            if ledger.due <= ledger.time {
                look(&ledger, at: ledger.time, idle: limits.lifetime)
            } else if isFull(ledger) {
                look(&ledger, at: ledger.time, idle: limits.idle)
            } else {
                return
            }
        }
    }

    /// Takes the first client out of the queue: forgets it, or puts it at the end if it was used
    /// within `idle`.
    private func look(_ ledger: inout SessionLedger, at time: UInt64, idle: UInt64) {
        let place = SessionTable.place(ledger.head)
        let entry = transaction.get(SessionTable.queue, place)
        transaction.delete(SessionTable.queue, place)
        ledger.head += 1
        if let entry, entry.count == QueueEntry.size {
            let key = Array(entry[1..<17])
            let session = transaction.get(SessionTable.sessions, key).flatMap {
                Session(parsing: $0, forgettingBelow: 0)
            }
            if let session, session.lastUse + idle > time {
                enqueue(key, due: session.lastUse + limits.lifetime, &ledger)
            } else {
                transaction.delete(SessionTable.sessions, key)
                ledger.kibibytes -= min(ledger.kibibytes, UInt64(session?.kibibytes ?? 0))
            }
        }
        let next = transaction.get(SessionTable.queue, SessionTable.place(ledger.head))
        ledger.due = next.map(QueueEntry.due) ?? 0
    }

    private func enqueue(_ key: [UInt8], due: UInt64, _ ledger: inout SessionLedger) {
        if ledger.head == ledger.tail { ledger.due = due }
        transaction.add(
            SessionTable.queue, SessionTable.place(ledger.tail), QueueEntry.encoded(key, due: due))
        ledger.tail += 1
    }
}

/// A record of the queue: version, client, when to look at it.
private enum QueueEntry {
    static let size = 25

    static func encoded(_ key: [UInt8], due: UInt64) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(size)
        bytes.append(Session.version)
        bytes += key
        bytes.appendBigEndian(due)
        return bytes
    }

    static func due(_ bytes: [UInt8]) -> UInt64 {
        bytes.count == size ? bytes.bigEndian(at: 17) : 0
    }
}

/// What is counted of all clients.
struct SessionLedger: Equatable {
    private static let version: UInt8 = 1
    private static let size = 41

    /// The latest time in the log, but for less than `Sessions.tick`.
    var time: UInt64 = 0
    /// The first place of the queue, and the one behind its last.
    var head: UInt64 = 0
    var tail: UInt64 = 0
    /// When the first in the queue is to be looked at.
    var due: UInt64 = 0
    /// KiB of all sessions, each rounded up.
    var kibibytes: UInt64 = 0

    /// What stands in `tables`; that of a group that remembers nobody if nothing does.
    static func read(in tables: some MetadataReader) -> SessionLedger {
        var ledger = SessionLedger()
        guard let bytes = tables.get(SessionTable.ledger, []), bytes.count == size,
            bytes[0] == version
        else { return ledger }
        ledger.time = bytes.bigEndian(at: 1)
        ledger.head = bytes.bigEndian(at: 9)
        ledger.tail = bytes.bigEndian(at: 17)
        ledger.due = bytes.bigEndian(at: 25)
        ledger.kibibytes = bytes.bigEndian(at: 33)
        return ledger
    }

    func write(to transaction: any MetadataTransaction) {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.size)
        bytes.append(Self.version)
        for number in [time, head, tail, due, kibibytes] { bytes.appendBigEndian(number) }
        transaction.put(SessionTable.ledger, [], bytes)
    }
}
