/// The appends sent to a follower and not yet answered: a window bounded by count and bytes.
///
/// A ring that grows with use up to the bound, so that hundreds of idle groups cost nothing.
/// Adding and freeing are amortised O(1) an append.
struct Inflights: Equatable, Sendable {
    private struct Append: Equatable, Sendable {
        var lastIndex: LogIndex
        var byteCount: Int
    }

    private let capacity: Int
    private let byteLimit: Int
    private var ring: [Append] = []
    private var start = 0
    /// Appends in flight.
    private(set) var count = 0
    /// Their bytes of data.
    private(set) var byteCount = 0

    /// A window of `capacity` appends and of `byteLimit` bytes (0: any number).
    init(capacity: Int, byteLimit: Int) {
        precondition(capacity > 0, "a window of appends holds at least one")
        self.capacity = capacity
        self.byteLimit = byteLimit
    }

    /// Whether nothing more may be sent. The append that reaches the limit of bytes was sent.
    var isFull: Bool { count == capacity || (byteLimit != 0 && byteCount >= byteLimit) }

    /// Adds an append that ends at `lastIndex`.
    ///
    /// - Precondition: the window is not full, and indexes ascend.
    mutating func add(lastIndex: LogIndex, byteCount bytes: Int) {
        precondition(!isFull, "an append was sent beyond the window")
        if count == ring.count { grow() }
        var place = start + count
        if place >= ring.count { place -= ring.count }
        ring[place] = Append(lastIndex: lastIndex, byteCount: bytes)
        count += 1
        byteCount += bytes
    }

    /// Frees every append that ends at or before `index`.
    mutating func free(through index: LogIndex) {
        while count > 0, ring[start].lastIndex <= index {
            byteCount -= ring[start].byteCount
            count -= 1
            start += 1
            if start == ring.count { start = 0 }
        }
        if count == 0 { start = 0 }
    }

    /// Frees all and keeps the ring.
    mutating func reset() {
        start = 0
        count = 0
        byteCount = 0
    }

    private mutating func grow() {
        var larger: [Append] = []
        let size = min(capacity, max(ring.count * 2, 4))
        larger.reserveCapacity(size)
        for offset in 0..<count { larger.append(ring[(start + offset) % ring.count]) }
        while larger.count < size { larger.append(Append(lastIndex: 0, byteCount: 0)) }
        ring = larger
        start = 0
    }
}
