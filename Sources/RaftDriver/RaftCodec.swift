import Model
import Raft
import RaftLog

/// The bytes in which messages of a group travel between its members, little-endian.
///
/// ```
/// envelope  version (1)  group (16, big-endian)  count (4)  messages
/// message   kind (1)  flags (1: reject, 2: snapshot)  to from term logTerm index commit vote
///           rejectHint (8 each)  context (4 + bytes)  entries (4)  entry …  [snapshot]
/// entry     term (8)  index (8)  kind (1)  data (4 + bytes)
/// snapshot  index (8)  term (8)  voters learners outgoing next (4 + 8 each)  autoLeave (1)
///           data (4 + bytes)
/// ```
public enum RaftCodec {
    public static let version: UInt8 = 1

    /// Bounds of what is taken from a peer.
    public enum Limits {
        /// Messages in one envelope.
        public static let messages = 4096
        /// Bytes of an envelope, about; a single message may be larger.
        public static let bytes = 4 << 20
        /// Members in a configuration.
        public static let members = 4096
    }

    /// Bytes that a message takes, about.
    static func size(_ message: Message) -> Int {
        var size = 96 + message.context.count + (message.snapshot?.data.count ?? 0)
        for entry in message.entries { size += 24 + entry.data.count }
        return size
    }

    /// An envelope with messages of one group. Those to a storage thread do not travel.
    public static func encode(_ messages: some Collection<Message>, of group: GroupID) -> [UInt8] {
        precondition(messages.count <= Limits.messages, "too many messages for one envelope")
        var bytes: [UInt8] = []
        bytes.reserveCapacity(messages.reduce(32) { $0 + size($1) })
        bytes.append(version)
        bytes.appendBigEndian(group.high)
        bytes.appendBigEndian(group.low)
        bytes.appendLittleEndian(UInt32(messages.count))
        for message in messages { append(message, to: &bytes) }
        return bytes
    }

    private static func append(_ message: Message, to bytes: inout [UInt8]) {
        precondition(message.responses.isEmpty, "answers of storage threads do not travel")
        precondition(message.kind.travels, "a \(message.kind) is a member's word to itself")
        bytes.append(message.kind.rawValue)
        bytes.append((message.reject ? 1 : 0) | (message.snapshot != nil ? 2 : 0))
        for number in [
            message.to.rawValue, message.from.rawValue, message.term, message.logTerm,
            message.index, message.commit, message.vote.rawValue, message.rejectHint,
        ] {
            bytes.appendLittleEndian(number)
        }
        bytes.appendCounted(message.context)
        bytes.appendLittleEndian(UInt32(message.entries.count))
        for entry in message.entries {
            bytes.appendLittleEndian(entry.term)
            bytes.appendLittleEndian(entry.index)
            bytes.append(entry.kind.rawValue)
            bytes.appendCounted(entry.data)
        }
        if let snapshot = message.snapshot {
            bytes.appendLittleEndian(snapshot.metadata.index)
            bytes.appendLittleEndian(snapshot.metadata.term)
            append(snapshot.metadata.confState, to: &bytes)
            bytes.appendCounted(snapshot.data)
        }
    }

    private static func append(_ state: ConfState, to bytes: inout [UInt8]) {
        for peers in [state.voters, state.learners, state.votersOutgoing, state.learnersNext] {
            bytes.appendLittleEndian(UInt32(peers.count))
            for peer in peers { bytes.appendLittleEndian(peer.rawValue) }
        }
        bytes.append(state.autoLeave ? 1 : 0)
    }

    /// The group and the messages of an envelope.
    ///
    /// Throws `versionMismatch` with the number, or `badRequest` with what is wrong.
    public static func decode(
        _ bytes: [UInt8]
    ) throws(StoreError) -> (group: GroupID, messages: [Message]) {
        var reader = RaftByteReader(bytes)
        let found = try reader.byte()
        guard found == version else {
            throw StoreError(
                .versionMismatch,
                "Raft messages of version \(found) came; this program speaks \(version)")
        }
        let high: UInt64 = try reader.bigEndian()
        let low: UInt64 = try reader.bigEndian()
        let count = try reader.count(atMost: Limits.messages, of: "messages")
        var messages: [Message] = []
        messages.reserveCapacity(count)
        for _ in 0..<count { messages.append(try message(&reader)) }
        guard reader.isAtEnd else {
            throw StoreError(.badRequest, "bytes follow the last message of an envelope")
        }
        return (GroupID(high: high, low: low), messages)
    }

    private static func message(_ reader: inout RaftByteReader) throws(StoreError) -> Message {
        let number = try reader.byte()
        guard let kind = MessageKind(rawValue: number) else {
            throw StoreError(.badRequest, "there is no Raft message of kind \(number)")
        }
        // Members propose where they lead, so that whoever proposes is told what came of it.
        guard kind.travels, kind != .propose else {
            throw StoreError(
                .badRequest, "a \(kind) came from another member, which may not send one")
        }
        let flags = try reader.byte()
        var message = Message(kind)
        message.to = PeerID(try reader.number())
        message.from = PeerID(try reader.number())
        message.term = try reader.number()
        message.logTerm = try reader.number()
        message.index = try reader.number()
        message.commit = try reader.number()
        message.vote = PeerID(try reader.number())
        message.rejectHint = try reader.number()
        message.reject = flags & 1 != 0
        message.context = try reader.counted()
        let count = try reader.count(atMost: reader.left / 21, of: "entries")
        message.entries.reserveCapacity(count)
        for _ in 0..<count { message.entries.append(try entry(&reader)) }
        if flags & 2 != 0 { message.snapshot = try snapshot(&reader) }
        try check(message)
        return message
    }

    /// Refuses what no member sends: without a sender or with a storage thread as one, without a
    /// term where only words of a member to itself have none, and a snapshot of a later term.
    private static func check(_ message: Message) throws(StoreError) {
        guard message.from != .none, !message.from.isStorageThread else {
            throw StoreError(
                .badRequest, "a \(message.kind) came from \(message.from), which is no member")
        }
        guard message.term > 0 || message.kind == .readIndex else {
            throw StoreError(.badRequest, "a \(message.kind) came without a term")
        }
        guard let snapshot = message.snapshot else { return }
        guard message.kind == .snapshot, snapshot.metadata.term <= message.term else {
            throw StoreError(
                .badRequest,
                "a \(message.kind) of term \(message.term) came with a snapshot of term "
                    + "\(snapshot.metadata.term)")
        }
    }

    private static func entry(_ reader: inout RaftByteReader) throws(StoreError) -> Entry {
        let term: Term = try reader.number()
        let index: LogIndex = try reader.number()
        let number = try reader.byte()
        guard let kind = EntryKind(rawValue: number) else {
            throw StoreError(.badRequest, "there is no entry of kind \(number)")
        }
        return Entry(term: term, index: index, kind: kind, data: try reader.counted())
    }

    private static func snapshot(_ reader: inout RaftByteReader) throws(StoreError) -> Snapshot {
        var metadata = SnapshotMetadata()
        metadata.index = try reader.number()
        metadata.term = try reader.number()
        metadata.confState.voters = try reader.peers()
        metadata.confState.learners = try reader.peers()
        metadata.confState.votersOutgoing = try reader.peers()
        metadata.confState.learnersNext = try reader.peers()
        metadata.confState.autoLeave = try reader.byte() != 0
        return Snapshot(metadata: metadata, data: try reader.counted())
    }
}

extension [UInt8] {
    mutating func appendLittleEndian<T: FixedWidthInteger & UnsignedInteger>(_ value: T) {
        Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
    }

    /// Bytes behind their number.
    mutating func appendCounted(_ bytes: [UInt8]) {
        appendLittleEndian(UInt32(bytes.count))
        append(contentsOf: bytes)
    }
}

/// Takes numbers and byte strings off the front of an array.
struct RaftByteReader {
    private let bytes: [UInt8]
    private var offset = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var left: Int { bytes.count - offset }
    var isAtEnd: Bool { left == 0 }

    private mutating func take(_ count: Int) throws(StoreError) -> Int {
        guard count <= left else {
            throw StoreError(
                .badRequest, "a Raft message ends early: \(count) bytes expected, \(left) there")
        }
        defer { offset += count }
        return offset
    }

    mutating func byte() throws(StoreError) -> UInt8 { bytes[try take(1)] }

    mutating func number<T: FixedWidthInteger & UnsignedInteger>() throws(StoreError) -> T {
        let at = try take(MemoryLayout<T>.size)
        return T(
            littleEndian: bytes.withUnsafeBytes {
                $0.loadUnaligned(fromByteOffset: at, as: T.self)
            })
    }

    mutating func bigEndian() throws(StoreError) -> UInt64 {
        let value: UInt64 = try number()
        return value.byteSwapped
    }

    mutating func count(atMost limit: Int, of what: String) throws(StoreError) -> Int {
        let count: UInt32 = try number()
        guard count <= limit else {
            throw StoreError(.badRequest, "\(count) \(what) in a Raft message: at most \(limit)")
        }
        return Int(count)
    }

    mutating func counted() throws(StoreError) -> [UInt8] {
        let size: UInt32 = try number()
        let at = try take(Int(size))
        return Array(bytes[at..<at + Int(size)])
    }

    mutating func peers() throws(StoreError) -> [PeerID] {
        let count = try count(atMost: RaftCodec.Limits.members, of: "members")
        var peers: [PeerID] = []
        for _ in 0..<count {
            let peer = PeerID(try number())
            guard peer != .none, !peer.isStorageThread else {
                throw StoreError(.badRequest, "a Raft message names \(peer) as a member")
            }
            peers.append(peer)
        }
        return peers
    }
}
