import Model
import Synchronization

/// Changes that are applied but not yet in the database, which takes them in large batches.
///
/// Two sets: `active` takes what is applied now; `frozen` is being written to the database and no
/// longer changes. Of a record the active change counts before the frozen one, and that before
/// the database. The log makes them durable: after a crash they are applied again.
///
/// Thread-safe. One applier and one flush at a time.
final class Overlay: Sendable {
    /// Both sets at one moment, with the index that everything older than them reaches to.
    struct Capture: Sendable {
        var active: ChangeSet
        var frozen: ChangeSet
        /// Index of the last command that is wholly in the database.
        var flushedIndex: UInt64
        var appliedIndex: UInt64

        func change(_ table: MetadataTable, _ key: [UInt8]) -> RecordChange? {
            active.change(table, key) ?? frozen.change(table, key)
        }
    }

    private struct State {
        var capture: Capture
        var frozenIndex: UInt64
        /// Counts what was applied.
        var clock: UInt64 = 0
    }

    private let state: Mutex<State>

    init(appliedIndex: UInt64) {
        state = Mutex(
            State(
                capture: Capture(
                    active: ChangeSet(), frozen: ChangeSet(), flushedIndex: appliedIndex,
                    appliedIndex: appliedIndex),
                frozenIndex: appliedIndex))
    }

    var appliedIndex: UInt64 { state.withLock { $0.capture.appliedIndex } }
    var flushedIndex: UInt64 { state.withLock { $0.capture.flushedIndex } }
    /// Bytes of what the next flush would write.
    var activeSize: Int { state.withLock { $0.capture.active.size } }
    /// Changes as often as anything is applied.
    var clock: UInt64 { state.withLock { $0.clock } }

    func capture() -> Capture { state.withLock { $0.capture } }

    func change(_ table: MetadataTable, _ key: [UInt8]) -> RecordChange? {
        state.withLock { $0.capture.change(table, key) }
    }

    /// Makes the changes of commands up to `index` visible, all of them at once.
    func publish(_ changes: [RecordKey: RecordChange], through index: UInt64) {
        state.withLock { state in
            for (key, change) in changes {
                state.capture.active.merge(key.table, key.bytes, change)
            }
            state.capture.appliedIndex = index
            state.clock += 1
        }
    }

    /// What is to be written to the database next, and the index that it then has applied: what
    /// an earlier flush failed to write, or all that was applied. nil if that is nothing.
    func freeze() -> (changes: ChangeSet, index: UInt64)? {
        state.withLock { state in
            if state.frozenIndex == state.capture.flushedIndex {
                guard state.capture.appliedIndex > state.capture.flushedIndex else { return nil }
                state.capture.frozen = state.capture.active
                state.capture.active = ChangeSet()
                state.frozenIndex = state.capture.appliedIndex
            }
            return (state.capture.frozen, state.frozenIndex)
        }
    }

    /// The database has the state of `index`, whatever it had before.
    func restart(at index: UInt64) {
        state.withLock { state in
            state.capture = Capture(
                active: ChangeSet(), frozen: ChangeSet(), flushedIndex: index,
                appliedIndex: index)
            state.frozenIndex = index
            state.clock += 1
        }
    }

    /// What was frozen is in the database.
    func dropFrozen() {
        state.withLock { state in
            state.capture.frozen = ChangeSet()
            state.capture.flushedIndex = state.frozenIndex
        }
    }
}

/// An overlay at one moment, as scans want it: the changes of each table in order. Sorted when
/// first asked for. Belongs to one connection's turn; not thread-safe.
final class OverlayView {
    let capture: Overlay.Capture
    private var sorted: [MetadataTable: [(key: RecordBytes, value: [UInt8]?)]] = [:]

    init(_ capture: Overlay.Capture) { self.capture = capture }

    /// All changes of `table` by key.
    func changes(_ table: MetadataTable) -> [(key: RecordBytes, value: [UInt8]?)] {
        if let known = sorted[table] { return known }
        let merged = Self.merge(
            newer: capture.active.sorted(table), older: capture.frozen.sorted(table))
        sorted[table] = merged
        return merged
    }

    /// Both lists as one, by key; of equal keys the newer entry.
    static func merge(
        newer: [(key: RecordBytes, value: [UInt8]?)], older: [(key: RecordBytes, value: [UInt8]?)]
    ) -> [(key: RecordBytes, value: [UInt8]?)] {
        if older.isEmpty { return newer }
        if newer.isEmpty { return older }
        var merged: [(key: RecordBytes, value: [UInt8]?)] = []
        merged.reserveCapacity(newer.count + older.count)
        var next = 0
        for entry in older {
            while next < newer.count, newer[next].key < entry.key {
                merged.append(newer[next])
                next += 1
            }
            if next < newer.count, newer[next].key == entry.key { continue }
            merged.append(entry)
        }
        merged += newer[next...]
        return merged
    }
}
