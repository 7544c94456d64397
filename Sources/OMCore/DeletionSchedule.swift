import Model

/// Which discarded blocks may be handed to SCM, and where in their table to go on looking.
///
/// A command that was applied a grace ago is due. Its place in the log tells that, not the time
/// that it bears, so neither a clock that was set nor a record of the future holds anything up,
/// and after a start nothing is due before one grace has passed. Pure; times are nanoseconds of a
/// monotonic clock.
///
/// The table is walked in the order of its keys. What cannot be handed over now (it is being
/// read, or SCM does not take it) is passed over, and looked at again when a later walk begins.
public struct DeletionSchedule: Sendable {
    private struct Mark {
        var time: UInt64
        /// All commands up to this one had been applied by then.
        var index: UInt64
    }

    private let grace: UInt64
    /// Oldest first; about 18 at most.
    private var marks: [Mark] = []
    /// Where the next look at the table begins.
    private var position: [UInt8] = []
    private var isAtEnd = false
    private var passedOver = 0
    private var walkBegan: UInt64?

    /// - Parameter grace: nanoseconds that blocks stay after they were discarded.
    public init(grace: UInt64) { self.grace = grace }

    /// Notes that commands up to `index` are applied. To be called more often than the grace.
    public mutating func note(applied index: UInt64, at time: UInt64) {
        if let last = marks.last {
            guard index > last.index, time >= last.time &+ grace / 16 else { return }
        }
        marks.append(Mark(time: time, index: index))
    }

    /// The last command that is due; nil before the first grace has passed.
    public mutating func due(at time: UInt64) -> UInt64? {
        guard let place = marks.lastIndex(where: { $0.time &+ grace <= time }) else { return nil }
        marks.removeFirst(place)
        return marks[0].index
    }

    /// The key from which to look on.
    public mutating func begin(at time: UInt64) -> [UInt8] {
        let began = walkBegan ?? time
        if isAtEnd, passedOver > 0, time >= began &+ grace / 2 {
            position = []
            passedOver = 0
            walkBegan = nil
        }
        if walkBegan == nil { walkBegan = time }
        isAtEnd = false
        return position
    }

    /// What was found from where the last look began is done with, but for some records.
    ///
    /// - Parameters:
    ///   - start: where the look began; one of an earlier schedule counts for nothing.
    ///   - next: where to go on.
    ///   - isAtEnd: what comes there is not due yet.
    public mutating func advance(
        from start: [UInt8], to next: [UInt8], isAtEnd: Bool, passedOver: Int
    ) {
        guard start == position else { return }
        position = next
        self.isAtEnd = isAtEnd
        self.passedOver += passedOver
    }
}
