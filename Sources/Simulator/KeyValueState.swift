import Raft

/// Numbers a register of the simulated application.
typealias RegisterID = UInt32

/// What a client wants done, as the data of a log entry.
struct Command: Equatable {
    var client: UInt16
    /// Counts the client's operations: a repeated one is done once (Raft thesis, section 6.3).
    var sequence: UInt32
    var register: RegisterID
    var request: RegisterOperation.Request
    /// Bytes that only make the entry longer.
    var padding = 0

    var encoded: [UInt8] {
        var writer = ByteBuilder()
        writer.add(client, bytes: 2)
        writer.add(sequence, bytes: 4)
        writer.add(register, bytes: 4)
        switch request {
        case .read: writer.add(0 as UInt8, bytes: 1)
        case .write(let value):
            writer.add(1 as UInt8, bytes: 1)
            writer.add(value, bytes: 4)
        case .swap(let from, let to):
            writer.add(2 as UInt8, bytes: 1)
            writer.add(from, bytes: 4)
            writer.add(to, bytes: 4)
        }
        return writer.bytes + [UInt8](repeating: 0, count: padding)
    }

    init(
        client: UInt16, sequence: UInt32, register: RegisterID, request: RegisterOperation.Request,
        padding: Int = 0
    ) {
        self.client = client
        self.sequence = sequence
        self.register = register
        self.request = request
        self.padding = padding
    }

    /// Reads the data of an entry; nil if it is none of a client's.
    init?(decoding bytes: [UInt8]) {
        var reader = ByteReader(bytes: bytes)
        guard let client = reader.take(2), let sequence = reader.take(4),
            let register = reader.take(4), let kind = reader.take(1)
        else { return nil }
        let request: RegisterOperation.Request
        switch kind {
        case 1:
            guard let value = reader.take(4) else { return nil }
            request = .write(UInt32(value))
        case 2:
            guard let from = reader.take(4), let to = reader.take(4) else { return nil }
            request = .swap(from: UInt32(from), to: UInt32(to))
        default: return nil
        }
        self.init(
            client: UInt16(client), sequence: UInt32(sequence), register: UInt32(register),
            request: request)
    }
}

/// The application of a node: registers, and what each client did last.
struct KeyValueState: Equatable {
    private struct Session: Equatable {
        var sequence: UInt32
        /// The register's value before the operation: the answer to a swap.
        var observed: UInt32
    }

    /// Register n is at place n.
    private var registers: [UInt32] = []
    /// Client n is at place n.
    private var sessions: [Session] = []
    /// Entries applied, of any kind, so that one applied twice shows.
    private(set) var applied: UInt64 = 0
    private var contents: UInt64 = 0

    /// Equal for equal states, whatever led to them.
    var digest: UInt64 { contents ^ mixed(applied) }

    /// The value of a register.
    func value(of register: RegisterID) -> UInt32 {
        Int(register) < registers.count ? registers[Int(register)] : 0
    }

    /// Carries out an entry's data. Returns the answer; nil for a repetition of what an
    /// operation of the same client replaced, and for empty entries.
    mutating func apply(_ data: [UInt8]) -> RegisterOperation.Answer? {
        applied += 1
        guard !data.isEmpty, let command = Command(decoding: data) else { return nil }
        let last = session(command.client)
        if command.sequence < last.sequence { return nil }
        if command.sequence == last.sequence { return answer(command, observed: last.observed) }
        let old = value(of: command.register)
        switch command.request {
        case .read: break
        case .write(let value): set(command.register, to: value)
        case .swap(let from, let to): if old == from { set(command.register, to: to) }
        }
        set(command.client, to: Session(sequence: command.sequence, observed: old))
        return answer(command, observed: old)
    }

    /// Counts an entry that changes nothing here.
    mutating func skip() { applied += 1 }

    private func answer(_ command: Command, observed: UInt32) -> RegisterOperation.Answer {
        switch command.request {
        case .read: .value(observed)
        case .write: .written
        case .swap: .observed(observed)
        }
    }

    private func session(_ client: UInt16) -> Session {
        Int(client) < sessions.count ? sessions[Int(client)] : Session(sequence: 0, observed: 0)
    }

    private mutating func set(_ register: RegisterID, to value: UInt32) {
        while registers.count <= Int(register) { registers.append(0) }
        contents ^= Self.mark(1, register, registers[Int(register)])
        registers[Int(register)] = value
        contents ^= Self.mark(1, register, value)
    }

    private mutating func set(_ client: UInt16, to session: Session) {
        while sessions.count <= Int(client) { sessions.append(Session(sequence: 0, observed: 0)) }
        let old = sessions[Int(client)]
        contents ^= Self.mark(2, UInt32(client), old.sequence)
        contents ^= Self.mark(3, UInt32(client), old.observed)
        sessions[Int(client)] = session
        contents ^= Self.mark(2, UInt32(client), session.sequence)
        contents ^= Self.mark(3, UInt32(client), session.observed)
    }

    /// The part of one cell in the digest of the contents; 0 if it holds 0.
    private static func mark(_ table: UInt64, _ place: UInt32, _ value: UInt32) -> UInt64 {
        value == 0 ? 0 : mixed(table << 60 ^ UInt64(place) << 32 ^ UInt64(value))
    }

    // MARK: Snapshots

    /// The state as the data of a snapshot. `leavingOutSessions` is a defect.
    func encoded(leavingOutSessions: Bool = false) -> [UInt8] {
        var writer = ByteBuilder()
        writer.add(applied, bytes: 8)
        writer.add(UInt32(registers.count), bytes: 4)
        for value in registers { writer.add(value, bytes: 4) }
        let kept = leavingOutSessions ? [] : sessions
        writer.add(UInt32(kept.count), bytes: 4)
        for session in kept {
            writer.add(session.sequence, bytes: 4)
            writer.add(session.observed, bytes: 4)
        }
        return writer.bytes
    }

    /// The state of nothing applied.
    init() {}

    /// The state that a snapshot holds; nil if the bytes are none.
    init?(decoding bytes: [UInt8]) {
        var reader = ByteReader(bytes: bytes)
        guard let applied = reader.take(8), let registerCount = reader.take(4) else { return nil }
        for register in 0..<UInt32(registerCount) {
            guard let value = reader.take(4) else { return nil }
            set(register, to: UInt32(value))
        }
        guard let sessionCount = reader.take(4) else { return nil }
        for client in 0..<UInt16(sessionCount) {
            guard let sequence = reader.take(4), let observed = reader.take(4) else { return nil }
            set(client, to: Session(sequence: UInt32(sequence), observed: UInt32(observed)))
        }
        self.applied = applied
    }
}

/// Appends numbers, little-endian.
struct ByteBuilder {
    private(set) var bytes: [UInt8] = []

    mutating func add(_ number: some FixedWidthInteger & UnsignedInteger, bytes count: Int) {
        var rest = UInt64(number)
        for _ in 0..<count {
            bytes.append(UInt8(truncatingIfNeeded: rest))
            rest >>= 8
        }
    }
}

/// Takes numbers, little-endian; nil once the bytes end.
struct ByteReader {
    private let bytes: [UInt8]
    private var place = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    mutating func take(_ count: Int) -> UInt64? {
        guard place + count <= bytes.count else { return nil }
        var number: UInt64 = 0
        for index in 0..<count { number |= UInt64(bytes[place + index]) << UInt64(8 * index) }
        place += count
        return number
    }
}
