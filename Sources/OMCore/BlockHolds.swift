import Model

/// Blocks that readers have said they are reading, each until one grace after it was last said.
///
/// They are in memory alone: after a start none is known, and nothing may be handed over before
/// readers had one grace to say it again. Pure; times are nanoseconds of a monotonic clock.
public struct BlockHolds: Sendable {
    /// How long a hold lasts, in nanoseconds.
    public let grace: UInt64
    private let capacity: Int
    private var ends: [BlockID: UInt64] = [:]
    private var lastSweep: UInt64 = 0

    /// - Parameter capacity: blocks that are held at once at most; about 32 bytes each.
    public init(grace: UInt64, capacity: Int = OMLimits.heldBlocks) {
        self.grace = grace
        self.capacity = capacity
    }

    /// Blocks that are held, or were until lately.
    public var count: Int { ends.count }

    /// Holds `blocks` for one grace from `time` on. All of them, or throws `overloaded`: then
    /// their readers have what is left of an earlier hold, or of the grace itself.
    public mutating func hold(_ blocks: [BlockID], at time: UInt64) throws(StoreError) {
        if ends.count + blocks.count > capacity {
            removeExpired(at: time)
            let room = capacity - ends.count
            let new = Set(blocks.filter { ends[$0] == nil }).count
            guard new <= room else {
                throw StoreError(
                    .overloaded,
                    "\(ends.count) blocks are held for readers, and at most \(capacity) can be")
            }
        }
        for block in blocks { ends[block] = time &+ grace }
    }

    public func isHeld(_ block: BlockID, at time: UInt64) -> Bool {
        ends[block].map { $0 > time } ?? false
    }

    /// Forgets holds that have ended. O(count), and therefore at most four times in a grace.
    public mutating func removeExpired(at time: UInt64) {
        guard time >= lastSweep &+ grace / 4 else { return }
        lastSweep = time
        ends = ends.filter { $0.value > time }
    }
}
