import Model
import Reactor
import Synchronization

/// Tells the Ozone Manager which blocks are being read, so that a reader under way keeps them
/// when its key is replaced or deleted, however slow it is.
///
/// The blocks of a discarded key stay for a grace, which is enough for most readers: those that
/// have been open for some seconds say again and again, a few times in a grace, which blocks they
/// read. What is not said again is given up by itself, so nothing is to be done when a reader
/// ends. The loop that says it runs only while readers are open. Thread-safe.
final class ReaderHolds: Sendable {
    enum Limits {
        /// How often blocks are named, unless the grace is short.
        static let interval = Duration.seconds(10)
        /// The same at least, and at most while the grace is not known.
        static let leastInterval = Duration.milliseconds(200)
        static let firstInterval = Duration.seconds(1)
        /// How long a reader's blocks are named. The Ozone Manager gives up then as well.
        static let longest = Duration.seconds(24 * 3600)
        /// Blocks in one request; the Ozone Manager takes no more.
        static let blocksPerRequest = 4096
    }

    /// The readers that are open. Pure: time is passed in.
    struct Readers {
        private struct Reader {
            var groups: [BlockGroup]
            var opened: MonotonicTime
        }

        private var readers: [UInt64: Reader] = [:]
        private var next: UInt64 = 0
        private(set) var isLoopRunning = false
        private(set) var interval = Limits.firstInterval

        /// Returns the number of the reader, and whether the loop is to be started.
        mutating func open(
            _ groups: [BlockGroup], at now: MonotonicTime
        ) -> (id: UInt64, startsLoop: Bool) {
            next += 1
            readers[next] = Reader(groups: groups, opened: now)
            defer { isLoopRunning = true }
            return (next, !isLoopRunning)
        }

        mutating func close(_ id: UInt64) { readers[id] = nil }

        /// The blocks to be named now, of readers that have been open for half an interval; nil
        /// if no reader is open: the loop ends.
        mutating func due(at now: MonotonicTime) -> Set<BlockID>? {
            guard !readers.isEmpty else {
                isLoopRunning = false
                return nil
            }
            var blocks: Set<BlockID> = []
            for reader in readers.values {
                let age = reader.opened.duration(to: now)
                guard age >= interval / 2, age < Limits.longest else { continue }
                for group in reader.groups { blocks.insert(group.blockID) }
            }
            return blocks
        }

        /// The Ozone Manager has said how long discarded blocks stay.
        mutating func learn(grace: Duration) {
            interval = min(Limits.interval, max(Limits.leastInterval, grace / 4))
        }
    }

    /// An open reader: it ends when this does.
    final class Reader: Sendable {
        private let holds: ReaderHolds
        private let id: UInt64

        fileprivate init(_ holds: ReaderHolds, _ id: UInt64) {
            self.holds = holds
            self.id = id
        }

        deinit { holds.readers.withLock { $0.close(id) } }
    }

    private let readers = Mutex(Readers())
    private let name: @Sendable ([BlockID]) async throws(StoreError) -> Duration

    /// - Parameter name: names blocks to the Ozone Manager, which tells the grace.
    init(_ name: @escaping @Sendable ([BlockID]) async throws(StoreError) -> Duration) {
        self.name = name
    }

    /// To be called when a reader of `groups` opens; nil if there is nothing to hold.
    func open(_ groups: [BlockGroup], on reactor: Reactor) -> Reader? {
        guard !groups.isEmpty else { return nil }
        let (id, startsLoop) = readers.withLock { $0.open(groups, at: reactor.now()) }
        if startsLoop {
            Task(executorPreference: reactor) { [weak self] in
                while let interval = self?.interval {
                    do {
                        try await reactor.sleep(for: interval)
                    } catch {
                        // The reactor stops, and the process with it.
                        return
                    }
                    guard let self, await self.nameBlocks(at: reactor.now()) else { return }
                }
            }
        }
        return Reader(self, id)
    }

    private var interval: Duration { readers.withLock { $0.interval } }

    /// Names what is due. Returns whether to go on.
    private func nameBlocks(at now: MonotonicTime) async -> Bool {
        guard let due = readers.withLock({ $0.due(at: now) }) else { return false }
        let blocks = Array(due)
        for start in stride(from: 0, to: blocks.count, by: Limits.blocksPerRequest) {
            let end = min(start + Limits.blocksPerRequest, blocks.count)
            do throws(StoreError) {
                let grace = try await name(Array(blocks[start..<end]))
                readers.withLock { $0.learn(grace: grace) }
            } catch {
                // Named again after an interval: a hold outlasts some of them. While the Ozone
                // Manager cannot be asked, it gives no blocks away.
                return true
            }
        }
        return true
    }
}
