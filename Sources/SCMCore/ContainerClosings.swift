import DequeModule
import Model
import Wire

/// Who has heard of which containers take no new blocks any more.
///
/// Groups of a container are handed out ahead of their use: by SCM to the Ozone Manager, by that
/// to writers. Were a datanode to close it first, all of them would fail. So datanodes are told to
/// close a container only once all watchers, who ask for such news regularly, have had it, and
/// some time after that, in which writers use up what they have been given. A watcher that does
/// not ask any more is waited for no longer than `Limits.patience`.
///
/// Pure; time is told in nanoseconds of a monotonic clock. Not thread-safe.
struct ContainerClosings: Sendable {
    enum Limits {
        /// Containers that are remembered for who asks late; who asks later gives up all groups.
        static let remembered = 4096
        /// How long a watcher that has not asked is waited for, and remembered.
        static let patience: UInt64 = 5_000_000_000
        /// Watchers at most; of more, none is waited for.
        static let watchers = 64
    }

    private struct Watcher: Sendable {
        var sequence: UInt64
        var seen: UInt64
    }

    /// Tells this run of SCM from others.
    let term: UInt64
    private var news: Deque<ContainerID> = []
    /// Of the last entry of `news`; entries count from 1.
    private var sequence: UInt64 = 0
    private var watchers: [Identity128: Watcher] = [:]
    /// Containers that datanodes have not been told of.
    private var waiting: [ContainerID: (sequence: UInt64, since: UInt64)] = [:]

    init(term: UInt64) { self.term = term }

    /// The container takes no new blocks.
    mutating func add(_ id: ContainerID, at now: UInt64) {
        sequence += 1
        news.append(id)
        if news.count > Limits.remembered { news.removeFirst() }
        waiting[id] = (sequence, now)
    }

    /// Another leader gives out groups from now on, whom no watcher has asked yet: all have as long
    /// as if containers had ceased to take blocks now.
    mutating func startOver(at now: UInt64) {
        for id in waiting.keys { waiting[id]!.since = max(waiting[id]!.since, now) }
    }

    /// Whether datanodes have not been told of the container.
    func isWaiting(_ id: ContainerID) -> Bool { waiting[id] != nil }

    /// The container is closed, or gone.
    mutating func forget(_ id: ContainerID) { waiting[id] = nil }

    /// What a watcher has not heard yet. It has heard all that it asks beyond.
    mutating func answer(_ request: SCMClosingsRequest, at now: UInt64) -> SCMClosingsResponse {
        let known = request.term == term ? min(request.sequence, sequence) : 0
        let watcher = Identity128(request.watcher)
        watchers = watchers.filter { now - min(now, $0.value.seen) <= Limits.patience }
        if watchers[watcher] != nil || watchers.count < Limits.watchers {
            watchers[watcher] = Watcher(sequence: known, seen: now)
        }
        var response = SCMClosingsResponse()
        response.term = term
        response.sequence = sequence
        let unheard = Int(sequence - known)
        response.isIncomplete = request.term != term || unheard > news.count
        response.containers = news.suffix(unheard).map(\.rawValue)
        return response
    }

    /// Whether datanodes may be told to close the container: watchers know, and `delay` has passed.
    func mayClose(_ id: ContainerID, delay: UInt64, at now: UInt64) -> Bool {
        guard let entry = waiting[id] else { return true }
        let age = now - min(now, entry.since)
        let isWaitedFor = watchers.values.contains {
            $0.sequence < entry.sequence && now - min(now, $0.seen) <= Limits.patience
        }
        return age >= delay && (!isWaitedFor || age >= delay + Limits.patience)
    }
}
