import Model

/// An answer as it is kept for repeats of its call.
@usableFromInline
struct RememberedAnswer: Equatable {
    enum Kind: UInt8 {
        /// The state machine's.
        case answer = 1
        /// Nothing was done: a `StoreError`.
        case refusal = 2
    }

    var sequence: UInt64
    var kind: Kind
    var bytes: [UInt8]
}

/// What is remembered of one client. As a record, numbers with their most significant byte first:
///
///     0  u8  version, 1           17 u32 KiB that it is counted as
///     1  u64 last use             21 answers, by sequence: u64 sequence, u8 kind,
///     9  u64 forgotten below         u32 bytes, bytes
struct Session: Equatable {
    static let version: UInt8 = 1
    private static let headSize = 21
    private static let answerSize = 13

    /// The log's time of its last call, in milliseconds; not quite: see `Sessions.tick`.
    var lastUse: UInt64
    /// Calls below it are not known any more, and are not carried out.
    var forgottenBelow: UInt64
    var kibibytes: UInt32 = 0
    /// In the order of their sequences.
    private(set) var answers: [RememberedAnswer] = []

    init(lastUse: UInt64, forgottenBelow: UInt64) {
        self.lastUse = lastUse
        self.forgottenBelow = forgottenBelow
    }

    /// Reads a record without the answers to calls below `answered`. nil if it is none that this
    /// program knows.
    init?(parsing bytes: [UInt8], forgettingBelow answered: UInt64) {
        guard bytes.count >= Self.headSize, bytes[0] == Self.version else { return nil }
        lastUse = bytes.bigEndian(at: 1)
        forgottenBelow = max(answered, bytes.bigEndian(at: 9))
        kibibytes = bytes.bigEndian(at: 17)
        var place = Self.headSize
        while place < bytes.count {
            guard bytes.count - place >= Self.answerSize,
                let kind = RememberedAnswer.Kind(rawValue: bytes[place + 8])
            else { return nil }
            let sequence: UInt64 = bytes.bigEndian(at: place)
            let count = Int(bytes.bigEndian(at: place + 9, as: UInt32.self))
            place += Self.answerSize
            guard bytes.count - place >= count else { return nil }
            if sequence >= forgottenBelow {
                answers.append(
                    RememberedAnswer(
                        sequence: sequence, kind: kind, bytes: Array(bytes[place..<place + count])))
            }
            place += count
        }
    }

    var encodedSize: Int {
        answers.reduce(Self.headSize) { $0 + Self.answerSize + $1.bytes.count }
    }

    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(encodedSize)
        bytes.append(Self.version)
        bytes.appendBigEndian(lastUse)
        bytes.appendBigEndian(forgottenBelow)
        bytes.appendBigEndian(kibibytes)
        for answer in answers {
            bytes.appendBigEndian(answer.sequence)
            bytes.append(answer.kind.rawValue)
            bytes.appendBigEndian(UInt32(clamping: answer.bytes.count))
            bytes += answer.bytes
        }
        return bytes
    }

    func answer(to sequence: UInt64) -> RememberedAnswer? {
        answers.first { $0.sequence == sequence }
    }

    /// Adds an answer; those that are too many go, the lowest first. Precondition: its sequence is
    /// not known.
    mutating func insert(_ answer: RememberedAnswer, _ limits: SessionLimits) {
        let place = answers.firstIndex { $0.sequence > answer.sequence } ?? answers.count
        answers.insert(answer, at: place)
        var size = answers.reduce(0) { $0 + $1.bytes.count }
        while answers.count > limits.answers || size > limits.answerBytes, answers.count > 1 {
            let oldest = answers.removeFirst()
            size -= oldest.bytes.count
            forgottenBelow = max(forgottenBelow, oldest.sequence + 1)
        }
    }

    static var forgotten: StoreError {
        StoreError(
            .forgotten,
            "the call was answered or given up long ago, and is not carried out again: look what "
                + "came of it")
    }

    static func damaged(_ client: Identity128) -> StoreError {
        StoreError(
            .corrupt, "what is remembered of client \(client) cannot be read by this version")
    }
}
