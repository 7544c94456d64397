import CLinux
import Synchronization

// Memory that nobody uses goes back to the system.
//
// Why nothing is lost by it: only buffers on the free lists are given back, and nobody refers to
// those. They are taken off the lists while it is done, so that nobody gets one in between. A
// buffer is not initialised, so that its next user does not care that it reads as zeros.
//
// - Memory that rings have registered is left alone. The kernel holds its pages for as long, and
//   would read and write those while this process sees new ones. So a ring asks before it
//   registers (`beginRegistration`), and gives its registration up when it has little to do.
// - Memory shared with another process is freed for both, by a hole in the file. The other process
//   uses it only for requests that are under way, whose buffers are not free: see
//   docs/decisions/0003-shared-memory.md. The file keeps its size, so that no access faults: who
//   reads there all the same sees zeros, and who writes there allocates a page.
// - The arena goes in whole huge pages, of which all is cold. Given back in part they would come
//   back as small ones, and a disk's request of 1 MiB would be too many pieces for one.

extension BufferPool.Limits {
    /// The pieces in which the arena is given back: a huge page.
    static let releaseBytes = 2 << 20
}

extension BufferPool {
    /// A ring wants to register `registeredArena`. False while its memory is being given back.
    ///
    /// The ring must call `endRegistration` when it has the memory registered no longer.
    public func beginRegistration() -> Bool {
        state.withLock { state in
            guard !state.isReleasing else { return false }
            state.registrations += 1
            // All of its pages exist from now on.
            state.unusedHasPages = true
            for index in state.freeRegistered.indices {
                state.freeRegistered[index].forgetReleased()
            }
            return true
        }
    }

    /// The end of a registration that `beginRegistration` allowed.
    public func endRegistration() {
        state.withLock { state in
            precondition(state.registrations > 0, "a registration ends once")
            state.registrations -= 1
        }
    }

    /// Gives the memory of buffers back that were free at the last call and have not been used
    /// since. Returns the bytes of all such memory, that included which was given back before; 0 if
    /// there is nothing new.
    ///
    /// To be called every few seconds by one thread, none that serves requests: it sorts what is
    /// cold (O(n log n) in free buffers), but for when nothing has become so since the last call.
    @discardableResult
    public func releaseIdle() -> Int {
        let (arena, other) = takeCold()
        for (index, list) in other.enumerated() {
            for base in list { apus_unmap_memory(base, Self.size(index)) }
        }
        var bytes = other.enumerated().reduce(0) { $0 + $1.element.count * Self.size($1.offset) }
        for range in Self.wholePieces(arena.ranges) {
            release(range)
            bytes += range.count
        }
        state.withLock { state in
            for index in arena.registered.indices {
                state.freeRegistered[index].putReleased(arena.registered[index])
                state.freeArena[index].putReleased(arena.plain[index])
            }
            state.isReleasing = false
            state.isReleasingUnused = false
        }
        return bytes
    }

    /// Cold buffers of the arena, by size.
    private struct ColdArena {
        var registered: [[UnsafeMutableRawPointer]] = []
        var plain: [[UnsafeMutableRawPointer]] = []
        /// What has never been a buffer, but has pages.
        var unused: Range<UInt>?

        /// Where they lie.
        var ranges: [Range<UInt>] {
            (registered.enumerated().map { ($0, $1) } + plain.enumerated().map { ($0, $1) })
                .flatMap { index, list in
                    list.map { base in
                        let start = UInt(bitPattern: base)
                        return start..<start + UInt(BufferPool.size(index))
                    }
                } + [unused].compactMap { $0 }
        }
    }

    /// Takes what is cold off the lists and begins a new interval.
    private func takeCold() -> (ColdArena, other: [[UnsafeMutableRawPointer]]) {
        state.withLock { state in
            precondition(!state.isReleasing, "one thread gives memory back")
            var arena = ColdArena()
            var other: [[UnsafeMutableRawPointer]] = []
            let takesRegistered = state.registrations == 0
            if takesRegistered, state.unusedHasPages {
                state.unusedHasPages = false
                state.isReleasingUnused = true
                arena.unused = unused(state)
            }
            let hasCold =
                arena.unused != nil
                || state.freeArena.contains(where: \.hasCold)
                || takesRegistered && state.freeRegistered.contains(where: \.hasCold)
            for index in 0..<Self.classCount {
                // All of it, also what has no pages: neighbours make whole pieces.
                if hasCold {
                    arena.plain.append(state.freeArena[index].takeCold())
                    arena.registered.append(
                        takesRegistered ? state.freeRegistered[index].takeCold() : [])
                }
                let list = state.freeOther[index].takeCold()
                state.idleOther -= list.count * Self.size(index)
                other.append(list)
                state.freeRegistered[index].mark()
                state.freeArena[index].mark()
                state.freeOther[index].mark()
            }
            state.isReleasing = true
            return (arena, other)
        }
    }

    /// The part of the registered arena that has never been a buffer; nil if there is none.
    private func unused(_ state: State) -> Range<UInt>? {
        let end = min(arenaBytes, Limits.registeredBytes)
        guard state.arenaUsed < end else { return nil }
        return arenaAddress + UInt(state.arenaUsed)..<arenaAddress + UInt(end)
    }

    /// The whole pieces of `Limits.releaseBytes` that lie in the union of `ranges`.
    static func wholePieces(_ ranges: [Range<UInt>]) -> [Range<UInt>] {
        let piece = UInt(Limits.releaseBytes)
        var found: [Range<UInt>] = []
        var run: Range<UInt>?
        func end() {
            guard let run else { return }
            let start = (run.lowerBound + piece - 1) / piece * piece
            let end = run.upperBound / piece * piece
            if start < end { found.append(start..<end) }
        }
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = run, last.upperBound == range.lowerBound {
                run = last.lowerBound..<range.upperBound
            } else {
                end()
                run = range
            }
        }
        end()
        return found
    }

    private func release(_ range: Range<UInt>) {
        if arenaDescriptor >= 0 {
            // Without effect where the system cannot: then the memory stays.
            _ = apus_fallocate(
                arenaDescriptor,
                Int32(APUS_FALLOC_FL_KEEP_SIZE) | Int32(APUS_FALLOC_FL_PUNCH_HOLE),
                Int64(range.lowerBound - arenaAddress), Int64(range.count))
        } else {
            apus_discard_memory(UnsafeMutableRawPointer(bitPattern: range.lowerBound), range.count)
        }
    }
}
