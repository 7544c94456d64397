import Model
import Wire

/// Which disks are slow, told by what datanodes report of them and by comparing them with each
/// other.
///
///     normal → observed → avoided → observed → normal
///
/// A disk whose 99th percentile of reads, writes or syncs is several times the median of the others'
/// is *observed*; one that stays so is *avoided*: it gets no new containers, and replicas are
/// rebuilt elsewhere first. When it has not been slow for a while, it is observed for as long again
/// with all its work, and is normal then. One that was avoided before is avoided for longer. Of all
/// disks no more than a share is avoided at a time: what would be beyond is *spared*.
///
/// A disk that has nothing to do shows nothing, and is not slow: so one that is avoided comes back,
/// and is found anew if it must be.
///
/// Pure, and in memory alone: each SCM has its own, of what it hears. A report costs O(1) for each
/// disk in it; times are nanoseconds of SCM's monotonic clock.
struct DiskHealth: Sendable {
    enum Limits {
        /// A disk is slow beyond this many times the median of all…
        static let factor: UInt64 = 3
        /// …and beyond this: less is no harm, whatever the others do.
        static let floor: UInt64 = 100_000_000
        /// Operations of a kind that a disk must report to be told by.
        static let operations: UInt64 = 4
        /// Disks that must report of a kind to be compared.
        static let disks = 4
        /// An operation that is in flight for so long shows a slow disk, be nothing else known.
        static let hung: UInt64 = 2_000_000_000
        /// A disk that is slow for so long is avoided. Longer than a datanode's report reaches back, so
        /// that one hiccup is not enough.
        static let confirmation: UInt64 = 6_000_000_000
        /// A disk that is not slow for so long comes back; twice as long with each time before.
        static let calm: UInt64 = 20_000_000_000
        static let doublings = 5
        /// For each time so long without being avoided one is forgotten.
        static let forgetting: UInt64 = 600_000_000_000
        /// Of the disks that report one of so many may be avoided, and one in any case.
        static let share = 10
        /// Disks that are not reported for so long are forgotten.
        static let silence: UInt64 = 60_000_000_000
    }

    enum State: Sendable {
        case normal, observed, avoided
        /// It would be avoided, but too many are.
        case spared
    }

    /// One disk: what it reported last, and how it is taken.
    struct Disk: Sendable {
        fileprivate(set) var state = State.normal
        /// Since when.
        fileprivate(set) var since: UInt64
        /// What it takes, of the kind in which it is worst, and what half of all take at most.
        fileprivate(set) var latency: UInt64 = 0
        fileprivate(set) var siblings: UInt64 = 0
        /// By kind what counts in the spreads; 0: nothing.
        fileprivate var counted: [UInt64] = [0, 0, 0]
        /// When its reports began to show it slow, until one shows that it is not; and the last that
        /// did. Reports of too little to tell by show neither.
        fileprivate var slowSince: UInt64?
        fileprivate var lastSlow: UInt64 = 0
        fileprivate var reported: UInt64 = 0
        /// Times that it was avoided, as far as they are not forgotten.
        fileprivate var times = 0
        /// When it last was no longer avoided.
        fileprivate var avoidedUntil: UInt64 = 0

        fileprivate var calm: UInt64 {
            Limits.calm << UInt64(min(max(times - 1, 0), Limits.doublings))
        }
    }

    private var nodes: [DatanodeID: [String: Disk]] = [:]
    /// Of reads, writes and syncs.
    private var spreads = [LatencySpread](repeating: LatencySpread(), count: 3)
    private var disks = 0
    private var lastSweep: UInt64 = 0
    /// By state; `normal` is not counted.
    private(set) var observed = 0
    private(set) var avoided = 0
    private(set) var spared = 0

    /// Takes what node `id` reports of its disks. One that is failed is no matter of slowness.
    mutating func heard(_ id: DatanodeID, _ volumes: [DNVolume], at now: UInt64) {
        sweep(at: now)
        var left = nodes.removeValue(forKey: id) ?? [:]
        var known: [String: Disk] = [:]
        for volume in volumes where !volume.isFailed && known[volume.path] == nil {
            var disk = left.removeValue(forKey: volume.path)
            if disk == nil { disks += 1 }
            take(volume, &disk, at: now)
            known[volume.path] = disk
        }
        for (_, disk) in left { forget(disk) }
        if !known.isEmpty { nodes[id] = known }
    }

    private mutating func take(_ volume: DNVolume, _ known: inout Disk?, at now: UInt64) {
        var disk = known ?? Disk(since: now)
        discount(disk)
        disk.reported = now
        let reports = [volume.reads, volume.writes, volume.syncs]
        for kind in spreads.indices {
            let counts = reports[kind].count >= Limits.operations && reports[kind].p99 > 0
            disk.counted[kind] = counts ? reports[kind].p99 : 0
            if counts { spreads[kind].add(disk.counted[kind]) }
        }
        judge(&disk, oldest: volume.oldest, at: now)
        known = disk
    }

    /// Compares the disk with the others, and takes it as it is from now on.
    private mutating func judge(_ disk: inout Disk, oldest: UInt64, at now: UInt64) {
        var isSlow: Bool?
        (disk.latency, disk.siblings) = (0, 0)
        for kind in spreads.indices where disk.counted[kind] > 0 {
            guard spreads[kind].count >= Limits.disks, let median = spreads[kind].median else {
                continue
            }
            let latency = disk.counted[kind]
            // The kind that is worst by its factor.
            if disk.siblings == 0
                || Double(latency) / Double(median)
                    > Double(disk.latency) / Double(disk.siblings)
            {
                (disk.latency, disk.siblings) = (latency, median)
            }
            isSlow =
                isSlow == true || (latency >= Limits.floor && latency / Limits.factor >= median)
        }
        let usual = spreads.compactMap(\.median).max() ?? 0
        if oldest >= Limits.hung, oldest / Limits.factor >= usual {
            isSlow = true
            (disk.latency, disk.siblings) = (max(disk.latency, oldest), usual)
        }
        step(&disk, isSlow: isSlow, at: now)
    }

    /// - Parameter isSlow: nil: the report does not tell.
    private mutating func step(_ disk: inout Disk, isSlow: Bool?, at now: UInt64) {
        switch isSlow {
        case true?:
            disk.slowSince = disk.slowSince ?? now
            disk.lastSlow = now
        case false?: disk.slowSince = nil
        case nil: break
        }
        let isCalm = now - min(now, disk.lastSlow) >= disk.calm
        switch disk.state {
        case .normal:
            if isSlow == true { enter(.observed, &disk, at: now) }
        case .observed:
            if isSlow == true, now - (disk.slowSince ?? now) >= Limits.confirmation {
                avoid(&disk, at: now)
            } else if isCalm {
                enter(.normal, &disk, at: now)
            }
        case .spared:
            if isSlow == true {
                avoid(&disk, at: now)
            } else if isCalm {
                enter(.normal, &disk, at: now)
            }
        case .avoided:
            guard isCalm else { return }
            enter(.observed, &disk, at: now)
            // It has to be calm for as long again, with all its work.
            disk.lastSlow = now
            disk.avoidedUntil = now
            disk.slowSince = nil
        }
    }

    private mutating func avoid(_ disk: inout Disk, at now: UInt64) {
        let most = max(1, disks / Limits.share)
        guard avoided < most else {
            if disk.state != .spared { enter(.spared, &disk, at: now) }
            return
        }
        let forgotten = (now - min(now, disk.avoidedUntil)) / Limits.forgetting
        disk.times = min(max(0, disk.times - Int(clamping: forgotten)), Limits.doublings) + 1
        enter(.avoided, &disk, at: now)
    }

    private mutating func enter(_ state: State, _ disk: inout Disk, at now: UInt64) {
        count(disk.state, -1)
        disk.state = state
        disk.since = now
        if state == .normal { disk.slowSince = nil }
        count(state, 1)
    }

    private mutating func count(_ state: State, _ change: Int) {
        switch state {
        case .normal: break
        case .observed: observed += change
        case .avoided: avoided += change
        case .spared: spared += change
        }
    }

    private mutating func discount(_ disk: Disk) {
        for kind in spreads.indices where disk.counted[kind] > 0 {
            spreads[kind].remove(disk.counted[kind])
        }
    }

    private mutating func forget(_ disk: Disk) {
        discount(disk)
        count(disk.state, -1)
        disks -= 1
    }

    /// Forgets disks of nodes that are not heard of; looks for them no more often than need be.
    private mutating func sweep(at now: UInt64) {
        guard now - min(now, lastSweep) >= Limits.silence / 4 else { return }
        lastSweep = now
        for (id, known) in nodes {
            let gone = known.filter { now - min(now, $0.value.reported) >= Limits.silence }
            guard !gone.isEmpty else { continue }
            for (path, disk) in gone {
                forget(disk)
                nodes[id]![path] = nil
            }
            if nodes[id]!.isEmpty { nodes[id] = nil }
        }
    }

    /// Whether nothing new is to be placed on node `id`: half of its disks or more are avoided. One
    /// with more of them that are well puts what is new onto those.
    func isAvoided(_ id: DatanodeID) -> Bool {
        guard avoided > 0, let known = nodes[id] else { return false }
        return known.values.count { $0.state == .avoided } * 2 >= known.count
    }

    /// The disks of node `id` that are not as others, by path.
    func slow(on id: DatanodeID) -> [(path: String, disk: Disk)] {
        guard observed + avoided + spared > 0, let known = nodes[id] else { return [] }
        return known.filter { $0.value.state != .normal }
            .map { (path: $0.key, disk: $0.value) }.sorted { $0.path < $1.path }
    }
}
