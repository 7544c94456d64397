import Model
import Raft
import Reactor
import Testing

@testable import RaftLog

/// What a group's log should hold: the reference that the real one is compared with.
struct ModelGroup: Equatable {
    var base: LogIndex = 0
    var baseTerm: Term = 0
    var entries: [Entry] = []
    var hardState = HardState()
    var confState = ConfState()
    var confIndex: LogIndex = 0

    var last: LogIndex { base + UInt64(entries.count) }

    func term(of index: LogIndex) -> Term {
        index == base ? baseTerm : entries[Int(index - base - 1)].term
    }

    mutating func apply(_ operation: ModelOperation) {
        switch operation {
        case .append(let new, let state):
            if let first = new.first {
                entries.removeSubrange(Int(first.index - base - 1)...)
                entries += new
            }
            if let state { hardState = state }
        case .install(let snapshot, let new, let state):
            base = snapshot.index
            baseTerm = snapshot.term
            entries = new
            confState = snapshot.confState
            confIndex = snapshot.index
            if let state { hardState = state }
            if new.isEmpty || state == nil { hardState.commit = snapshot.index }
        case .compact(let index, let conf):
            baseTerm = term(of: index)
            entries.removeFirst(Int(index - base))
            base = index
            if let conf, index >= confIndex { (confState, confIndex) = (conf, index) }
        case .members(let conf, let index): (confState, confIndex) = (conf, index)
        }
    }

    /// Reads all of a real group.
    init(reading group: GroupLog) async throws {
        let (state, conf) = try group.initialState()
        hardState = state
        confState = conf
        #expect(group.confState.0 == conf)
        confIndex = group.confState.index
        base = group.firstIndex - 1
        baseTerm = try group.term(of: base)
        let last = group.lastIndex
        while self.last < last {
            let next = self.last + 1
            do throws(StorageError) {
                entries += try group.entries(from: next, to: last + 1, maxSize: 10_000)
            } catch {
                #expect(error == .temporarilyUnavailable)
                try await group.fetch(from: next, to: last + 1, maxSize: 10_000)
            }
        }
        for (place, entry) in entries.enumerated() {
            #expect(entry.index == base + 1 + UInt64(place))
            #expect(try group.term(of: entry.index) == entry.term)
        }
    }

    init() {}
}

enum ModelOperation {
    case append([Entry], HardState?)
    case install(SnapshotMetadata, [Entry], HardState?)
    case compact(LogIndex, ConfState?)
    case members(ConfState, LogIndex)

    /// Does it on a real group.
    func perform(on group: GroupLog) async throws(StoreError) {
        switch self {
        case .append(let entries, let state):
            try await group.append(entries: entries, hardState: state)
        case .install(let snapshot, let entries, let state):
            try await group.append(entries: entries, hardState: state, snapshot: snapshot)
        case .compact(let index, let conf): try await group.compact(through: index, confState: conf)
        case .members(let conf, let index): try await group.setConfState(conf, at: index)
        }
    }

    /// A valid operation on `group`, by chance. Data has up to `size` bytes.
    static func random(
        on group: ModelGroup, upTo size: Int, using random: inout some RandomNumberGenerator
    ) -> ModelOperation {
        let commit = group.hardState.commit
        switch Int.random(in: 0..<20, using: &random) {
        case 0 where commit > group.base:
            let index = UInt64.random(in: group.base + 1...commit, using: &random)
            return .compact(index, Bool.random(using: &random) ? members(&random) : nil)
        case 1 where commit > group.base: return .compact(commit, nil)
        case 2 where commit >= group.confIndex: return .members(members(&random), commit)
        case 3 where Int.random(in: 0..<3, using: &random) == 0:
            let index = group.last + UInt64.random(in: 1...20, using: &random)
            let term = group.hardState.term + 1
            let snapshot = SnapshotMetadata(confState: members(&random), index: index, term: term)
            let new = entries(from: index + 1, term, 0...2, size, &random)
            let commit = index + (new.isEmpty ? 0 : 1)
            return .install(snapshot, new, HardState(term: term, vote: 2, commit: commit))
        case 4, 5, 6:
            // A new term, whose leader replaces what is not committed.
            let term = group.hardState.term + 1
            let from = UInt64.random(in: commit + 1...group.last + 1, using: &random)
            let new = entries(from: from, term, 1...3, size, &random)
            let vote = PeerID(UInt64.random(in: 1...3, using: &random))
            return .append(new, HardState(term: term, vote: vote, commit: commit))
        case 7, 8:
            // Only commit, or only a vote.
            var state = group.hardState
            state.commit = UInt64.random(in: commit...group.last, using: &random)
            if state.vote == .none { state.vote = 3 }
            return .append([], state)
        default:
            let new = entries(from: group.last + 1, group.hardState.term, 1...4, size, &random)
            var state = group.hardState
            state.commit = UInt64.random(
                in: commit...group.last + UInt64(new.count), using: &random)
            return .append(new, Bool.random(using: &random) ? state : nil)
        }
    }

    private static func members(_ random: inout some RandomNumberGenerator) -> ConfState {
        let count = UInt64.random(in: 1...5, using: &random)
        return ConfState(
            voters: (1...count).map { PeerID($0) }, learners: count == 2 ? [9] : [],
            votersOutgoing: count == 3 ? [7, 8] : [], learnersNext: count == 3 ? [8] : [],
            autoLeave: count == 3)
    }

    static func entries(
        from index: LogIndex, _ term: Term, _ count: ClosedRange<Int>, _ size: Int,
        _ random: inout some RandomNumberGenerator
    ) -> [Entry] {
        (0..<Int.random(in: count, using: &random)).map { place in
            let length = Int.random(in: 0...size, using: &random)
            var byte = UInt8.random(in: 0...255, using: &random)
            let data = (0..<length).map { _ in
                byte = byte &* 5 &+ 1
                return byte
            }
            let kind: EntryKind = place % 3 == 2 ? .confChangeV2 : .normal
            return Entry(term: term, index: index + UInt64(place), kind: kind, data: data)
        }
    }
}

/// The `number`th group of a test.
func groupID(_ number: Int) -> GroupID { GroupID(high: 0xA905, low: UInt64(number)) }

/// A log with segments of 32 KiB and next to no memory. Without a proof of its last batch, as a
/// crash leaves it, unless there is a delay for it.
func smallLog(
    _ directory: String, on reactor: Reactor, segmentSize: Int = 32 << 10,
    cacheBytes: Int = 16 << 10, proofDelay: Duration? = nil
) async throws(StoreError) -> SharedLog {
    var options = SharedLog.Options(
        segmentSize: segmentSize, cacheBytes: cacheBytes, slackSegments: 3, spareSegments: 2)
    options.proofDelay = proofDelay
    return try await SharedLog.open(directory: directory, on: reactor, options: options)
}

/// All groups of a log, read whole.
func contents(_ log: SharedLog) async throws -> [GroupID: ModelGroup] {
    var all: [GroupID: ModelGroup] = [:]
    for id in log.groups {
        all[id] = try await ModelGroup(reading: try #require(log.group(id)))
    }
    return all
}
