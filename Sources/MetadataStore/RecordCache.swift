import Model
import Synchronization

/// Records of the tables that are read again and again, kept in memory up to a number of bytes.
///
/// What is in it is what every read that begins now would find in the database, over which the
/// overlay's changes count. For that, changes come in two steps: before a transaction commits,
/// what it changes is taken out (`invalidate`),
/// so that reads go to the tables for it and see it before or after, as the database decides; when
/// it has committed, the new values go in (`publish`). A value that was read from the tables goes
/// in only if the record has not been changed since before that read began.
///
/// Two generations: when the young one has grown to half of the budget it becomes the old one and
/// what was old is dropped; what is found in the old one moves to the young one. Thread-safe; one
/// lock, held for one look-up.
final class RecordCache: Sendable {
    enum Limits {
        /// Changed records remembered, to tell old values from new ones.
        static let changes = 16_384
        /// Bytes that a record costs beside its own.
        static let overhead = 64
    }

    private struct State {
        var young: [RecordKey: [UInt8]] = [:]
        var old: [RecordKey: [UInt8]] = [:]
        var youngBytes = 0
        /// Counts the steps of all changes.
        var clock: UInt64 = 0
        /// When a record was changed last. Of those that are not here, before `floor`.
        var changed: [RecordKey: UInt64] = [:]
        var floor: UInt64 = 0
        /// Records of the transaction that is about to commit.
        var pending: Set<RecordKey> = []
    }

    private let state = Mutex(State())
    private let tables: Set<MetadataTable>
    private let budget: Int

    /// For records of `tables`, which take at most about `budget` bytes.
    init(tables: Set<MetadataTable>, budget: Int) {
        self.tables = tables
        self.budget = budget
    }

    /// Whether records of `table` are kept at all.
    func holds(_ table: MetadataTable) -> Bool { budget > 0 && tables.contains(table) }

    /// The step of changes at which a read begins.
    var clock: UInt64 { state.withLock { $0.clock } }

    func get(_ key: RecordKey) -> [UInt8]? {
        state.withLock { state in
            if let value = state.young[key] { return value }
            guard let value = state.old.removeValue(forKey: key) else { return nil }
            insert(key, value, &state)
            return value
        }
    }

    /// Keeps `value`, read from the tables by a read that began at step `began`, unless the record
    /// may have changed since. Returns the same bytes: the array that is here if they are equal,
    /// so that all readers have one, and what is known of it by its place stays true of it.
    func offer(_ key: RecordKey, _ value: [UInt8], readAt began: UInt64) -> [UInt8] {
        state.withLock { state in
            if let kept = state.young[key], kept == value { return kept }
            guard began >= state.floor, !state.pending.contains(key),
                (state.changed[key] ?? 0) <= began
            else { return value }
            let kept = state.old.removeValue(forKey: key).flatMap { $0 == value ? $0 : nil }
            insert(key, kept ?? value, &state)
            return kept ?? value
        }
    }

    /// A transaction is about to commit changes of `keys`.
    func invalidate(_ keys: [RecordKey]) {
        state.withLock { state in
            note(keys, &state)
            state.pending.formUnion(keys)
            for key in keys {
                if let value = state.young.removeValue(forKey: key) {
                    state.youngBytes -= Self.cost(key, value)
                }
                state.old[key] = nil
            }
        }
    }

    /// The transaction has committed; nil stands for a record that was removed.
    func publish(_ changes: [RecordKey: [UInt8]?]) {
        state.withLock { state in
            note(Array(changes.keys), &state)
            state.pending = []
            for case (let key, let value?) in changes { insert(key, value, &state) }
        }
    }

    /// Forgets everything: the database was replaced.
    func clear() {
        state.withLock { state in
            state.clock += 1
            state.floor = state.clock
            state.changed.removeAll(keepingCapacity: true)
            state.young = [:]
            state.old = [:]
            state.youngBytes = 0
        }
    }

    private func note(_ keys: [RecordKey], _ state: inout State) {
        state.clock += 1
        if state.changed.count + keys.count > Limits.changes {
            state.changed.removeAll(keepingCapacity: true)
            state.floor = state.clock
        }
        for key in keys { state.changed[key] = state.clock }
    }

    private func insert(_ key: RecordKey, _ value: [UInt8], _ state: inout State) {
        let cost = Self.cost(key, value)
        guard cost * 8 <= budget else { return }
        if let before = state.young.updateValue(value, forKey: key) {
            state.youngBytes -= Self.cost(key, before)
        }
        state.youngBytes += cost
        guard state.youngBytes > budget / 2 else { return }
        state.old = state.young
        state.young = [:]
        state.youngBytes = 0
    }

    private static func cost(_ key: RecordKey, _ value: [UInt8]) -> Int {
        key.bytes.count + value.count + Limits.overhead
    }
}
