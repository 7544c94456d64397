import Bytes
import Model
import Raft
import RaftLog
import Testing

@testable import RaftDriver

@Suite("What is taken from a peer")
struct RaftCodecTests {
    private let group = GroupID(high: 1, low: 2)

    /// Where the first message of an envelope begins: version, group, count.
    private let start = 1 + 16 + 4

    private func envelope(_ message: Message) -> [UInt8] { RaftCodec.encode([message], of: group) }

    private func expectRefusal(_ bytes: [UInt8], _ what: String) {
        let error = #expect(throws: StoreError.self, "\(what)") { try RaftCodec.decode(bytes) }
        #expect(error?.code == .badRequest, "\(what)")
    }

    @Test("every kind that members send goes there and back")
    func travelling() throws {
        for kind in MessageKind.allCases where kind.travels && kind != .propose {
            let message = Message(
                kind, to: 2, from: 1, term: 7, logTerm: 6, index: 5,
                entries: [Entry(term: 6, index: 6, data: [1, 2])], commit: 4, vote: 3,
                snapshot: kind == .snapshot
                    ? Snapshot(
                        metadata: SnapshotMetadata(
                            confState: ConfState(voters: [1, 2], learners: [3]), index: 9, term: 7),
                        data: [8]) : nil,
                reject: true, rejectHint: 2, context: [9, 9])
            let (name, found) = try RaftCodec.decode(envelope(message))
            #expect(name == group && found == [message])
        }
    }

    @Test("a word that only a member may say to itself is refused, durability above all")
    func ownWords() {
        let bytes = envelope(Message(.heartbeat, to: 2, from: 1, term: 7))
        for kind: MessageKind in [
            .hup, .beat, .unreachable, .snapshotStatus, .checkQuorum, .storageAppend,
            .storageAppendResponse, .storageApply, .storageApplyResponse, .forgetLeader, .propose,
        ] {
            var forged = bytes
            forged[start] = kind.rawValue
            expectRefusal(forged, "\(kind)")
        }
    }

    @Test("a message must come from a member, in a term, with no later snapshot")
    func senders() {
        for sender in [PeerID.none, .appendThread, .applyThread] {
            expectRefusal(
                envelope(Message(.appendResponse, to: 1, from: sender, term: 7, index: 3)),
                "from \(sender)")
        }
        for kind: MessageKind in [.append, .appendResponse, .vote, .heartbeat, .timeoutNow] {
            expectRefusal(envelope(Message(kind, to: 2, from: 1)), "\(kind) without a term")
        }
        let snapshot = Snapshot(
            metadata: SnapshotMetadata(confState: ConfState(voters: [1]), index: 9, term: 8))
        expectRefusal(
            envelope(Message(.snapshot, to: 2, from: 1, term: 7, snapshot: snapshot)),
            "a snapshot of a later term")
        expectRefusal(
            envelope(Message(.heartbeat, to: 2, from: 1, term: 8, snapshot: snapshot)),
            "a heartbeat with a snapshot")
        let odd = Snapshot(
            metadata: SnapshotMetadata(
                confState: ConfState(voters: [.appendThread]), index: 9, term: 7))
        expectRefusal(
            envelope(Message(.snapshot, to: 2, from: 1, term: 7, snapshot: odd)),
            "a storage thread as a member")
    }

    @Test("sizes and places of a snapshot's pieces that could overflow are refused")
    func pieces() throws {
        func request(size: UInt64, offset: UInt64, index: UInt64 = 5) -> [UInt8] {
            var bytes: [UInt8] = [SnapshotRequest.version]
            bytes.appendBigEndian(group.high)
            bytes.appendBigEndian(group.low)
            for number in [index, 1, size] { bytes.appendLittleEndian(number) }
            bytes.appendLittleEndian(UInt32(0))
            bytes.append(1)
            bytes.appendLittleEndian(offset)
            bytes.appendLittleEndian(UInt32(0))
            return bytes
        }
        let payload = Payload(copying: [1, 2, 3], pool: .process)
        _ = try SnapshotRequest(decoding: request(size: 10, offset: 7), payload: payload)
        let largest = UInt64(Int64.max)
        for (bytes, what) in [
            (request(size: 10, offset: largest), "an offset"),
            (request(size: largest, offset: largest), "an offset and a size"),
            (request(size: largest, offset: 0), "a size"),
            (request(size: 10, offset: 0, index: .max), "an index"),
        ] {
            let error = #expect(throws: StoreError.self, "\(what)") {
                try SnapshotRequest(decoding: bytes, payload: payload)
            }
            #expect(error?.code == .badRequest, "\(what)")
        }
    }
}
