import Bytes
import Glibc
import Reactor
import Synchronization
import Testing

/// Memory that nobody uses goes back to the system, and none that somebody uses.
@Suite("Idle memory")
struct IdleMemoryTests {
    private static let mib = 1 << 20

    /// Buffers of 1 MiB, all bytes set to `value`.
    private func buffers(_ count: Int, of pool: BufferPool, _ value: UInt8) -> [AlignedBuffer] {
        (0..<count).map { _ in
            let buffer = pool.allocate(Self.mib)
            memset(buffer.base, Int32(value), buffer.capacity)
            return buffer
        }
    }

    private func holds(_ buffer: AlignedBuffer, _ value: UInt8) -> Bool {
        buffer.bytes.allSatisfy { $0 == value }
    }

    @Test(
        "what was free at two calls and not used between them goes back, once",
        arguments: [false, true])
    func released(isShareable: Bool) {
        let pool = BufferPool(arenaBytes: 16 * Self.mib, isShareable: isShareable)
        var used = buffers(8, of: pool, 7)
        #expect(pool.releaseIdle() == 0)
        used = []
        #expect(pool.releaseIdle() == 0)
        #expect(pool.releaseIdle() == 8 * Self.mib)
        #expect(pool.releaseIdle() == 0)
        // The same addresses, whose pages are new.
        used = (0..<8).map { _ in pool.allocate(Self.mib) }
        #expect(used.allSatisfy { holds($0, 0) })
        #expect((pool.arenaDescriptor >= 0) == isShareable)
    }

    @Test("what was used between two calls stays")
    func usedBetween() {
        let pool = BufferPool(arenaBytes: 16 * Self.mib)
        var used = buffers(8, of: pool, 7)
        used = []
        #expect(pool.releaseIdle() == 0)
        // Taken from the top: the first four given back last.
        used = buffers(4, of: pool, 8)
        used = []
        #expect(pool.releaseIdle() == 4 * Self.mib)
        // All eight, of which four had no pages any more.
        #expect(pool.releaseIdle() == 8 * Self.mib)
        _ = used
    }

    @Test(
        "a buffer in use keeps its bytes, and its neighbour in a huge page",
        arguments: [false, true])
    func neighbours(isShareable: Bool) {
        let pool = BufferPool(arenaBytes: 16 * Self.mib, isShareable: isShareable)
        var used = buffers(8, of: pool, 7)
        let kept = [used[1], used[4]]
        used = []
        #expect(pool.releaseIdle() == 0)
        // Of the four huge pages the first and the third have one in use.
        #expect(pool.releaseIdle() == 4 * Self.mib)
        #expect(kept.allSatisfy { holds($0, 7) })
    }

    @Test("the other process sees the hole, the buffers beside it, and no fault")
    func shared() throws {
        let pool = BufferPool(arenaBytes: 8 * Self.mib, isShareable: true)
        let map = try SharedMap(descriptor: pool.arenaDescriptor, limit: 1 << 30)
        var used = buffers(4, of: pool, 7)
        let kept = [used[0], used[1]]
        used = []
        #expect(pool.releaseIdle() == 0)
        #expect(pool.releaseIdle() == 2 * Self.mib)
        let theirs = AlignedBuffer(0..<4 * Self.mib, of: map)
        #expect(theirs.bytes[..<(2 * Self.mib)].allSatisfy { $0 == 7 })
        #expect(theirs.bytes[(2 * Self.mib)...].allSatisfy { $0 == 0 })
        // What is written there from now on both see.
        let again = buffers(2, of: pool, 9)
        #expect(theirs.bytes[(2 * Self.mib)...].allSatisfy { $0 == 9 })
        #expect(kept.allSatisfy { holds($0, 7) })
        _ = again
    }

    @Test("memory outside of the arena is unmapped")
    func outside() {
        let pool = BufferPool()
        var used = buffers(3, of: pool, 7)
        used = []
        #expect(pool.releaseIdle() == 0)
        #expect(pool.releaseIdle() == 3 * Self.mib)
        #expect(pool.releaseIdle() == 0)
        _ = used
    }

    @Test("what rings have registered stays until the last has let it go")
    func registrations() {
        let pool = BufferPool(arenaBytes: 16 * Self.mib)
        var used = buffers(4, of: pool, 7)
        #expect(used.allSatisfy { $0.isRegistered })
        used = []
        #expect(pool.beginRegistration() && pool.beginRegistration())
        for _ in 0..<3 { #expect(pool.releaseIdle() == 0) }
        pool.endRegistration()
        for _ in 0..<3 { #expect(pool.releaseIdle() == 0) }
        pool.endRegistration()
        #expect(pool.releaseIdle() == 16 * Self.mib)
        // A registration gives all of the arena pages, what has never been a buffer included.
        #expect(pool.beginRegistration())
        pool.endRegistration()
        #expect(pool.releaseIdle() == 16 * Self.mib)
        #expect(pool.releaseIdle() == 0)
        _ = used
    }

    private final class Running: Sendable {
        let count: Atomic<Int>
        init(_ count: Int) { self.count = Atomic(count) }
    }

    @Test("threads that use the pool meanwhile lose no byte")
    func race() async {
        let pool = BufferPool(arenaBytes: 32 * Self.mib, isShareable: true)
        let running = Running(4)
        await withTaskGroup(of: Bool.self) { group in
            for number in 1...4 {
                group.addTask {
                    var isRight = true
                    var held: [(AlignedBuffer, UInt8)] = []
                    for turn in 0..<400 {
                        let buffer = pool.allocate(turn % 3 == 0 ? 1 << 20 : 64 << 10)
                        let value = UInt8(truncatingIfNeeded: turn &* 4 &+ number)
                        memset(buffer.base, Int32(value), buffer.capacity)
                        held.append((buffer, value))
                        if held.count > 5 {
                            let (old, value) = held.removeFirst()
                            isRight = isRight && holds(old, value)
                        }
                        if turn % 16 == 0 { await Task.yield() }
                    }
                    running.count.subtract(1, ordering: .relaxed)
                    return isRight && held.allSatisfy { holds($0, $1) }
                }
            }
            group.addTask {
                while running.count.load(ordering: .relaxed) > 0 {
                    pool.releaseIdle()
                    await Task.yield()
                }
                return true
            }
            for await isRight in group { #expect(isRight) }
        }
    }

    @Test("a ring registers the arena under load, lets it go afterwards, and does both again")
    func ring() async throws {
        // Less than the memory that anybody may lock.
        let pool = BufferPool(arenaBytes: 6 * Self.mib)
        var free = buffers(2, of: pool, 9)
        free = []
        let reactor = try Reactor.start(.init(backend: .uring, pool: pool, registersArena: true))
        defer { reactor.stop() }
        let path = "/tmp/apus-idle-\(getpid()).bin"
        defer { unlink(path) }
        let file = try await File.open(path, [.read, .write, .create, .direct], on: reactor)
        for round in 1...3 {
            let value = UInt8(round)
            let buffer = pool.allocate(4096)
            #expect(buffer.isRegistered)
            memset(buffer.base, Int32(value), 4096)
            for turn in 0..<600 {
                try await file.write(Payload(buffer, 0..<4096), at: turn * 4096)
            }
            #expect(await reactor.endInterval(), "after 600 operations it is registered")
            // Its pages are the kernel's for as long: they stay.
            #expect(pool.releaseIdle() == 0)
            #expect(pool.releaseIdle() == 0)
            #expect(await reactor.endInterval())
            #expect(await reactor.endInterval())
            #expect(await !reactor.endInterval(), "after three quiet intervals it is not")
            // The two free buffers, and the last third, which nobody has used but the kernel.
            #expect(pool.releaseIdle() == 4 * Self.mib)
            let other = pool.allocate(4096)
            for turn in [0, 300, 599] {
                let count = try await file.read(into: other, 0..<4096, at: turn * 4096)
                #expect(count == 4096 && holds(other, value))
            }
        }
        try await file.close()
        _ = free
    }
}
