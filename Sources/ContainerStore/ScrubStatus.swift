import Model
import Reactor
import Synchronization

extension Scrubber {
    /// How far the scrubbing of a volume is. A round is one reading of all that was due.
    public struct Status: Hashable, Sendable, CustomStringConvertible {
        /// What the scrubber does.
        public enum Activity: String, Hashable, Sendable {
            /// Nothing is due.
            case idle
            case reading
            case paused
        }

        public var volume: String
        public var activity = Activity.idle
        /// Of the present round, or of the last one.
        public var containersDone = 0
        public var containersTotal = 0
        public var bytesDone = 0
        public var bytesTotal = 0
        /// Of the round so far, pauses not counted.
        public var bytesPerSecond = 0
        /// Rounds that were finished since the start, and when the last one was.
        public var rounds = 0
        public var finishedAt: Timestamp?
        /// Blocks found damaged since the start, and what was said of the first of them.
        public var damaged = 0
        public var findings: [String] = []

        init(volume: String) { self.volume = volume }

        /// How long the rest of the round takes at the present rate; nil where nothing is read.
        public var remaining: Duration? {
            guard activity != .idle, bytesPerSecond > 0 else { return nil }
            return .milliseconds(max(0, bytesTotal - bytesDone) * 1000 / bytesPerSecond)
        }

        /// One line for a log.
        public var description: String {
            let progress =
                "scrub of \(volume): \(containersDone) of \(containersTotal) containers, "
                + "\(bytesDone) of \(bytesTotal) bytes at \(bytesPerSecond) bytes/s"
            let rest = remaining.map { ", \($0.components.seconds) s to go" } ?? ", done"
            return progress + rest + (damaged > 0 ? ", \(damaged) blocks damaged" : "")
        }

        mutating func begin(containers: Int, bytes: Int) {
            activity = .reading
            (containersDone, containersTotal) = (0, containers)
            (bytesDone, bytesTotal, bytesPerSecond) = (0, bytes, 0)
        }

        mutating func advance(_ count: Int, since start: MonotonicTime, now: MonotonicTime) {
            bytesDone += count
            let nanoseconds = Double(now.nanoseconds &- start.nanoseconds)
            if nanoseconds > 0 { bytesPerSecond = Int(Double(bytesDone) / nanoseconds * 1e9) }
        }

        mutating func end(at time: Timestamp) {
            activity = .idle
            rounds += 1
            finishedAt = time
        }
    }
}

extension ContainerStore {
    /// Begins to scrub every volume that works, each in its own time; ended by `close()`.
    ///
    /// - Parameter clock: the time of day, which tells what is due after a restart.
    public func startScrubbing(
        _ options: Scrubber.Options, clock: @escaping @Sendable () -> Timestamp
    ) {
        let scrubbers = volumeList.filter { $0.failure == nil }.map { volume in
            Scrubber(volume, cache: cache, options: options, clock: clock) { [weak self] in
                guard let self else { return [] }
                return self.state.withLock { Array($0.containers.values) }
                    .filter { $0.volume === volume }
            }
        }
        let isFirst = state.withLock { state in
            guard state.scrubbers.isEmpty, !state.isShut else { return false }
            state.scrubbers = scrubbers
            return true
        }
        precondition(isFirst, "a store that is open is scrubbed by one scrubber for each volume")
        for scrubber in scrubbers { scrubber.start() }
    }

    /// The scrubbers of the volumes, to be paused, resumed and asked; none before
    /// `startScrubbing`.
    public var scrubbers: [Scrubber] { state.withLock { $0.scrubbers } }
}
