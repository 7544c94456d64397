/// Simulated time and durations, in microseconds from the start of a run.
public typealias Microseconds = Int64

/// What is to happen, in the order of simulated time; events of one instant in the order in which
/// they were scheduled. A binary heap: O(log n) for each push and pop.
public struct EventQueue<Event> {
    private struct Slot {
        var time: Microseconds
        var order: UInt64
        /// Where the event itself lies, so that only small values move in the heap.
        var place: Int

        func isBefore(_ other: Slot) -> Bool {
            time != other.time ? time < other.time : order < other.order
        }
    }

    private var heap: [Slot] = []
    private var events: [Event?] = []
    private var free: [Int] = []
    private var scheduled: UInt64 = 0

    /// The time of the event popped last; nothing is scheduled before it.
    public private(set) var now: Microseconds = 0

    public init() {}

    /// Events that wait.
    public var count: Int { heap.count }

    /// Schedules an event at `delay` from now; a negative delay is a programmer's error.
    public mutating func push(_ event: Event, after delay: Microseconds) {
        precondition(delay >= 0, "an event is scheduled for the past")
        let place = free.popLast() ?? events.endIndex
        if place == events.endIndex { events.append(event) } else { events[place] = event }
        heap.append(Slot(time: now + delay, order: scheduled, place: place))
        scheduled += 1
        siftUp(heap.count - 1)
    }

    /// Takes the next event and moves time to it; nil when none waits.
    public mutating func pop() -> Event? {
        guard let first = heap.first else { return nil }
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            siftDown(0)
        }
        now = first.time
        free.append(first.place)
        return events[first.place].take()
    }

    private mutating func siftUp(_ start: Int) {
        var child = start
        while child > 0 {
            let parent = (child - 1) / 2
            guard heap[child].isBefore(heap[parent]) else { return }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    private mutating func siftDown(_ start: Int) {
        var parent = start
        while true {
            var least = parent
            let left = 2 * parent + 1
            let right = left + 1
            if left < heap.count, heap[left].isBefore(heap[least]) { least = left }
            if right < heap.count, heap[right].isBefore(heap[least]) { least = right }
            guard least != parent else { return }
            heap.swapAt(parent, least)
            parent = least
        }
    }
}
