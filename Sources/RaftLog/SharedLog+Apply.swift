import DequeModule
import Model
import Raft
import Synchronization

extension SharedLog {
    /// Lets the groups see what has become durable.
    func applyEffects() {
        let segment = ledger.current.sequence
        for effect in effects {
            apply(effect, in: segment)
        }
        effects.removeAll(keepingCapacity: true)
        places.removeAll(keepingCapacity: true)
        if cachedBytes > options.cacheBytes {
            shrinkCaches(to: options.cacheBytes, sparing: nil)
        }
    }

    private func apply(_ effect: BatchEffect, in segment: UInt32) {
        let places = self.places
        let change = effect.group.state.withLock { state in
            let before = state.cache.bytes
            switch effect {
            case .append(_, let entries, let range, let hardState):
                if !entries.isEmpty {
                    state.append(entries, at: places[range], in: segment, &ledger)
                }
                if let hardState { state.set(hardState) }
            case .anchor(_, let anchor, let cause):
                state.take(anchor, cause: cause, in: segment, &ledger)
            case .move(_, let moved, let range):
                for (place, entry) in zip(range, moved) {
                    state.move(entry.entry.index, from: entry.old, to: places[place], &ledger)
                }
            case .remove: state.remove(&ledger)
            }
            state.pending = nil
            return state.cache.bytes - before
        }
        cachedBytes += change
        switch effect {
        case .append(_, let entries, _, _):
            counts.entries += entries.count
            for entry in entries { counts.entryBytes += entry.data.count }
        case .move(_, let moved, _):
            counts.entriesMoved += moved.count
            for entry in moved { counts.bytesMoved += entry.old.size }
        case .remove(let group): roster.withLock { _ = $0.groups.removeValue(forKey: group.id) }
        case .anchor: break
        }
    }

    /// Has each group forget the older half of its entries in memory, until all are within the
    /// limit. The run that was just fetched for `spared` stays, even if it is larger than the
    /// limit: its reader is about to come.
    func shrinkCaches(to limit: Int, sparing spared: GroupLog?) {
        let groups = roster.withLock { Array($0.groups.values) }
        var rounds = 0
        // Each round halves; after those that 64 bits allow nothing is left.
        while cachedBytes > limit, rounds < 64 {
            for group in groups {
                cachedBytes += group.state.withLock { state in
                    let before = state.cache.bytes
                    state.cache.shrink(to: before / 2, sparingLatest: group === spared)
                    return state.cache.bytes - before
                }
            }
            rounds += 1
        }
    }

    /// Forgets the entries in memory. Who still wants one fetches it from disk: to be called when
    /// nobody is likely to.
    public func releaseMemory() { shrinkCaches(to: 0, sparing: nil) }
}
