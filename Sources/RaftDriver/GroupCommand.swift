import Model

/// What an entry of a group's log is, where it is more than a command of its state machine. Numbers
/// are part of the log's format: never reuse one for something else.
public enum GroupCommandKind: UInt8, Hashable, Sendable, CaseIterable {
    /// A command with the identity of the call that asks for it.
    case call = 1
    /// The answer to a call that no command is made of.
    case settled = 2
}

/// An entry of a group's log, read.
///
/// A command without an identity stands there as its state machine encodes it, and does not begin
/// with 0. Everything else is an envelope, numbers with their most significant byte first:
///
///     0  u8  0                        19 u64 sequence
///     1  u8  version, 1               27 u64 answered below
///     2  u8  kind                     35 u64 time by the group's clock, milliseconds
///     3  16  client                   43 the command; of `settled` u16 code, then a sentence
public enum GroupCommand<Command: Sendable>: Sendable {
    case plain(Command)
    /// - Parameter time: what the leader's `SessionClock` showed.
    case call(CallID, time: UInt64, Command)
    /// Nothing is carried out for the call, now or later, if it was not before.
    case settled(CallID, time: UInt64, StoreError)
}

/// The head of an envelope.
struct CallEnvelope {
    static let mark: UInt8 = 0
    static let version: UInt8 = 1
    static let size = 43
    /// Times and sequences beyond it are none: counting on from them could overflow.
    static let largestNumber: UInt64 = 1 << 62

    var kind: GroupCommandKind
    var call: CallID
    var time: UInt64

    static func isEnvelope(_ bytes: [UInt8]) -> Bool { bytes.first == mark }

    init(_ kind: GroupCommandKind, _ call: CallID, time: UInt64) {
        self.kind = kind
        self.call = call
        self.time = time
    }

    /// Throws `versionMismatch` for an envelope that this program does not know, `corrupt` for one
    /// that is none.
    init(parsing bytes: [UInt8]) throws(StoreError) {
        guard bytes.count >= 3 else {
            throw StoreError(.corrupt, "an entry of the log of \(bytes.count) bytes is cut off")
        }
        guard bytes[1] == Self.version, let kind = GroupCommandKind(rawValue: bytes[2]) else {
            throw StoreError(
                .versionMismatch,
                "the log holds an entry of kind \(bytes[2]), version \(bytes[1]); this program "
                    + "knows kinds 1 to 2 of version \(Self.version)")
        }
        guard bytes.count >= Self.size else {
            throw StoreError(.corrupt, "a call in the log has \(bytes.count) bytes: it is cut off")
        }
        self.kind = kind
        call = CallID(
            client: Identity128(high: bytes.bigEndian(at: 3), low: bytes.bigEndian(at: 11)),
            sequence: bytes.bigEndian(at: 19), answeredBelow: bytes.bigEndian(at: 27))
        time = bytes.bigEndian(at: 35)
        guard time < Self.largestNumber else {
            throw StoreError(.corrupt, "a call in the log has the time \(time)")
        }
    }

    /// Followed by `body`.
    func encoded(_ body: [UInt8]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.size + body.count)
        bytes.append(Self.mark)
        bytes.append(Self.version)
        bytes.append(kind.rawValue)
        bytes.appendBigEndian(call.client.high)
        bytes.appendBigEndian(call.client.low)
        bytes.appendBigEndian(call.sequence)
        bytes.appendBigEndian(call.answeredBelow)
        bytes.appendBigEndian(time)
        bytes += body
        return bytes
    }
}

extension StoreError {
    /// Its code, then its sentence, as logs and tables keep them.
    var record: [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(code.rawValue)
        bytes += Array(message.utf8)
        return bytes
    }

    /// A code that this program does not know becomes `internal`; the sentence stays.
    init(record bytes: [UInt8]) throws(StoreError) {
        guard bytes.count >= 2 else {
            throw StoreError(.corrupt, "a refusal of \(bytes.count) bytes is cut off")
        }
        self.init(
            Code(rawValue: bytes.bigEndian(at: 0)) ?? .internal,
            String(decoding: bytes[2...], as: UTF8.self))
    }
}
