import Testing

@testable import Raft

private func entries(_ terms: [Term], from first: LogIndex = 1) -> [Entry] {
    terms.enumerated().map { Entry(term: $1, index: first + LogIndex($0), data: [1, 2, 3]) }
}

@Suite("UnstableLog")
struct UnstableLogTests {
    @Test("entries are handed out once, and kept until they are confirmed")
    func handsOut() {
        var log = UnstableLog(after: 0)
        log.truncateAndAppend(entries([1, 1, 1])[...])
        #expect(log.nextEntries.count == 3)
        log.accept()
        #expect(!log.hasNextEntries)
        log.truncateAndAppend(entries([1], from: 4)[...])
        #expect(log.nextEntries.map(\.index) == [4])
        let known1 = log.stable(to: 2, term: 1)
        #expect(known1)
        #expect(log.count == 2)
        #expect(log.term(of: 2) == nil)
        #expect(log.term(of: 3) == 1)
        #expect(log.nextEntries.map(\.index) == [4])
    }

    @Test("a word for an entry that was replaced confirms nothing")
    func replaced() {
        var log = UnstableLog(after: 0)
        log.truncateAndAppend(entries([1, 1, 1])[...])
        log.accept()
        log.truncateAndAppend(entries([2], from: 2)[...])
        #expect(log.nextEntries.map(\.term) == [2])
        let known2 = log.stable(to: 3, term: 1)
        #expect(!known2)
        let known3 = log.stable(to: 2, term: 1)
        #expect(!known3)
        let known4 = log.stable(to: 1, term: 1)
        #expect(known4)
        #expect(log.count == 1)
    }

    @Test("entries before the offset replace what the storage has")
    func beforeOffset() {
        var log = UnstableLog(after: 5)
        log.truncateAndAppend(entries([3, 3], from: 4)[...])
        #expect(log.offset == 4)
        #expect(log.lastIndex == 5)
        #expect(log.nextEntries.map(\.index) == [4, 5])
    }

    @Test("a snapshot replaces all, is handed out once, and goes when it is confirmed")
    func snapshots() {
        var log = UnstableLog(after: 5)
        log.truncateAndAppend(entries([3, 3], from: 6)[...])
        log.restore(Snapshot(metadata: SnapshotMetadata(index: 20, term: 4)))
        #expect(log.lastIndex == 20)
        #expect(log.term(of: 20) == 4)
        #expect(log.count == 0)
        #expect(log.hasNextSnapshot)
        log.accept()
        #expect(!log.hasNextSnapshot)
        log.stableSnapshot(at: 19)
        #expect(log.hasSnapshot)
        log.stableSnapshot(at: 20)
        #expect(!log.hasSnapshot)
    }

    @Test("what is confirmed is freed, and the rest stays in place, over many rounds")
    func manyRounds() {
        var log = UnstableLog(after: 0)
        var last: LogIndex = 0
        for round in 1...2_000 as ClosedRange<LogIndex> {
            let count = round % 7 + 1
            log.truncateAndAppend(
                entries([Term](repeating: 1, count: Int(count)), from: last + 1)[...])
            last += count
            log.accept()
            if last > 5 {
                let known5 = log.stable(to: last - 5, term: 1)
                #expect(known5)
            }
            #expect(log.lastIndex == last)
            #expect(log.count == min(5, Int(last)))
            #expect(log.slice(log.offset, last + 1).map(\.index) == Array(log.offset...last))
        }
    }
}

@Suite("LogView")
struct LogViewTests {
    private func view(
        stable: [Term], unstable: [Term], maxApplyingSize: Int = 1 << 20
    ) -> LogView {
        let storage = MemoryStorage()
        storage.append(entries(stable))
        var view = LogView(storage: storage, maxApplyingSize: maxApplyingSize)
        view.append(entries(unstable, from: LogIndex(stable.count) + 1))
        return view
    }

    @Test("a slice crosses from the storage to what is unstable, within its limit of bytes")
    func slices() throws {
        let view = view(stable: [1, 1, 1], unstable: [2, 2])
        let size = entries([1])[0].byteCount
        #expect(try view.slice(1, 6, maxSize: .max).map(\.index) == [1, 2, 3, 4, 5])
        #expect(try view.slice(2, 6, maxSize: 3 * size).map(\.index) == [2, 3, 4])
        #expect(try view.slice(2, 6, maxSize: 3 * size - 1).map(\.index) == [2, 3])
        #expect(try view.slice(2, 6, maxSize: 0).map(\.index) == [2])
        #expect(try view.slice(5, 6, maxSize: 0).map(\.index) == [5])
        #expect(try view.entries(from: 6, maxSize: .max).isEmpty)
    }

    @Test(
        "the place where logs may match is the last with no later term",
        arguments: [
            (LogIndex(8), Term(5), LogIndex(8), Term(5)), (8, 4, 7, 3), (8, 2, 2, 2),
            (4, 9, 4, 3), (8, 0, 0, 0),
        ])
    func conflicts(index: LogIndex, term: Term, place: LogIndex, placeTerm: Term) {
        let view = view(stable: [1, 2, 3, 3], unstable: [3, 3, 3, 5])
        let found = view.conflict(upTo: index, term: term)
        #expect(found.index == place)
        #expect(found.term == placeTerm)
    }

    @Test("a leader's append keeps what matches and replaces the rest")
    func appends() {
        var view = view(stable: [1, 1, 1], unstable: [1, 1])
        let matched1 = view.append(after: 2, term: 2, [], committed: 0)
        #expect(matched1 == nil)
        let matched2 = view.append(after: 1, term: 1, entries([1, 1], from: 2), committed: 9)
        #expect(matched2 == 3)
        #expect(view.lastIndex == 5)
        #expect(view.committed == 3)
        let matched3 = view.append(after: 3, term: 1, entries([2], from: 4), committed: 4)
        #expect(matched3 == 4)
        #expect(view.lastIndex == 4)
        #expect(view.lastTerm == 2)
        #expect(view.committed == 4)
    }

    @Test("entries are handed out to apply within the bound, and again as they are applied")
    func applying() {
        let size = entries([1])[0].byteCount
        var view = view(stable: [1, 1, 1, 1], unstable: [1], maxApplyingSize: 2 * size)
        view.commit(to: 5)
        let first = view.nextCommitted(allowUnstable: true)
        #expect(first.map(\.index) == [1, 2])
        view.acceptApplying(to: 2, size: first.totalSize, allowUnstable: true)
        #expect(!view.hasNextCommitted(allowUnstable: true))
        view.applied(to: 1, size: size)
        let next4 = view.nextCommitted(allowUnstable: true)
        #expect(next4.map(\.index) == [3])
        view.acceptApplying(to: 3, size: size, allowUnstable: true)
        view.applied(to: 3, size: 2 * size)
        let next5 = view.nextCommitted(allowUnstable: false)
        #expect(next5.map(\.index) == [4])
        view.acceptApplying(to: 4, size: size, allowUnstable: false)
        view.applied(to: 4, size: size)
        #expect(!view.hasNextCommitted(allowUnstable: false))
        #expect(view.hasNextCommitted(allowUnstable: true))
    }
}

@Suite("MemoryStorage")
struct MemoryStorageTests {
    @Test("it has the edges of a log on disk")
    func edges() throws {
        let storage = MemoryStorage()
        storage.append(entries([1, 1, 2, 2, 3]))
        try storage.compact(to: 2)
        #expect(storage.firstIndex == 3)
        #expect(try storage.term(of: 2) == 1)
        #expect(throws: StorageError.compacted) { try storage.term(of: 1) }
        #expect(throws: StorageError.unavailable) { try storage.term(of: 6) }
        #expect(throws: StorageError.compacted) {
            try storage.entries(from: 2, to: 4, maxSize: .max)
        }
        #expect(throws: StorageError.unavailable) {
            try storage.entries(from: 3, to: 7, maxSize: .max)
        }
        #expect(throws: StorageError.compacted) { try storage.compact(to: 2) }
        #expect(throws: StorageError.unavailable) { try storage.compact(to: 9) }
        storage.append(entries([9, 9, 9], from: 1))
        #expect(storage.lastIndex == 3)
        #expect(try storage.term(of: 3) == 9)
    }

    @Test("a snapshot is of the latest state, and an older one is refused")
    func snapshots() throws {
        let storage = MemoryStorage()
        storage.append(entries([1, 1, 2]))
        #expect(throws: StorageError.snapshotTemporarilyUnavailable) {
            try storage.snapshot(index: 1, to: 2)
        }
        let made = try storage.createSnapshot(at: 2, confState: ConfState(voters: [1]))
        #expect(try storage.snapshot(index: 2, to: 2) == made)
        #expect(throws: StorageError.snapshotOutOfDate) {
            try storage.createSnapshot(at: 2, confState: nil)
        }
        #expect(throws: StorageError.snapshotOutOfDate) { try storage.applySnapshot(made) }
        try storage.applySnapshot(Snapshot(metadata: SnapshotMetadata(index: 9, term: 3)))
        #expect(storage.firstIndex == 10)
        #expect(storage.lastIndex == 9)
    }
}
