/// The free buffers of one size in a pool.
///
/// What was given back last lies on top and is taken first, so that memory nobody has needed for
/// long lies at the bottom. What nobody has taken since `mark` is *cold*: its pages may go back to
/// the system while the list keeps the addresses.
struct FreeList {
    private var buffers: [UnsafeMutableRawPointer] = []
    /// Buffers at the bottom that nobody has taken since the last `mark`.
    private var untouched = 0
    /// Buffers at the bottom whose pages have been given back; at most `untouched`.
    private var released = 0

    /// Whether there are cold buffers that still have pages.
    var hasCold: Bool { untouched > released }

    mutating func take() -> UnsafeMutableRawPointer? {
        guard let base = buffers.popLast() else { return nil }
        if buffers.count < untouched {
            untouched = buffers.count
            released = min(released, untouched)
        }
        return base
    }

    mutating func put(_ base: UnsafeMutableRawPointer) { buffers.append(base) }

    /// Begins a new interval: what is in the list now, and not taken until the next call, is cold.
    mutating func mark() { untouched = buffers.count }

    /// Takes all cold buffers out, those too that have no pages.
    mutating func takeCold() -> [UnsafeMutableRawPointer] {
        let cold = Array(buffers.prefix(untouched))
        buffers.removeFirst(untouched)
        untouched = 0
        released = 0
        return cold
    }

    /// Puts buffers without pages back, below what came in the meantime.
    mutating func putReleased(_ cold: [UnsafeMutableRawPointer]) {
        buffers.insert(contentsOf: cold, at: 0)
        // `take` may have gone below what was there before them.
        untouched += cold.count
        released = cold.count
    }

    /// What had no pages has them again.
    mutating func forgetReleased() { released = 0 }

    /// All buffers, which the list no longer has.
    mutating func takeAll() -> [UnsafeMutableRawPointer] {
        defer { self = FreeList() }
        return buffers
    }
}
