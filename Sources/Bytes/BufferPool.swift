import CLinux
import Synchronization

/// Aligned memory in size classes (powers of two from 4 KiB), kept for reuse.
///
/// A pool owns one arena, mapped when it is made; rings register the arena as fixed buffer 0, so
/// reads and writes of arena memory skip the kernel's page pinning. When the arena is used up,
/// buffers come from separate maps; of those at most `Limits.idleBytes` are kept when idle.
///
/// Thread-safe: one lock, held for a few instructions.
public final class BufferPool: Sendable {
    public enum Limits {
        /// The largest buffer that can be asked for.
        public static let largestBuffer = 64 << 20
        /// Bytes outside of the arena that are kept for reuse.
        public static let idleBytes = 256 << 20
    }

    private struct State: @unchecked Sendable {
        // Pointers to memory of this pool that nobody else refers to while they are listed here.
        var freeRegistered: [[UnsafeMutableRawPointer]]
        var freeOther: [[UnsafeMutableRawPointer]]
        var arenaUsed = 0
        var idleOther = 0
    }

    private static let smallestShift = 12
    private static let classCount = 15  // 4 KiB … 64 MiB

    private let state: Mutex<State>
    private let arenaAddress: UInt
    /// Bytes of the arena; 0 if there is none.
    public let arenaBytes: Int

    /// The arena, for registration with a ring. Empty if there is none.
    public var arena: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(
            start: UnsafeMutableRawPointer(bitPattern: arenaAddress), count: arenaBytes)
    }

    /// A pool with an arena of `arenaBytes` (rounded up to 2 MiB); 0 for none.
    public init(arenaBytes: Int = 0) {
        let rounded = (arenaBytes + (2 << 20) - 1) & ~((2 << 20) - 1)
        let memory = rounded == 0 ? nil : apus_map_memory(rounded, 2 << 20)
        arenaAddress = UInt(bitPattern: memory)
        self.arenaBytes = memory == nil ? 0 : rounded
        let empty = [[UnsafeMutableRawPointer]](repeating: [], count: Self.classCount)
        state = Mutex(State(freeRegistered: empty, freeOther: empty))
    }

    /// The pool shared by everything in a process that has no pool of its own.
    public static let process = BufferPool(arenaBytes: 64 << 20)

    /// A buffer of at least `count` bytes. Precondition: 0 < count ≤ `Limits.largestBuffer`.
    public func allocate(_ count: Int) -> AlignedBuffer {
        precondition(
            count > 0 && count <= Limits.largestBuffer, "a buffer has 1 byte to 64 MiB")
        let shift = max(Self.smallestShift, Int.bitWidth - (count - 1).leadingZeroBitCount)
        let index = shift - Self.smallestShift
        let size = 1 << shift
        let found: (UnsafeMutableRawPointer, Bool)? = state.withLock { state in
            if let base = state.freeRegistered[index].popLast() { return (base, true) }
            if state.arenaUsed + size <= arenaBytes {
                let base = UnsafeMutableRawPointer(bitPattern: arenaAddress)! + state.arenaUsed
                state.arenaUsed += size
                return (base, true)
            }
            if let base = state.freeOther[index].popLast() {
                state.idleOther -= size
                return (base, false)
            }
            return nil
        }
        if let (base, isRegistered) = found {
            return AlignedBuffer(base: base, capacity: size, isRegistered: isRegistered, pool: self)
        }
        guard let base = apus_map_memory(size, AlignedBuffer.alignment) else {
            preconditionFailure("out of memory: cannot map \(size) bytes")
        }
        return AlignedBuffer(base: base, capacity: size, isRegistered: false, pool: self)
    }

    func release(_ base: UnsafeMutableRawPointer, capacity: Int, isRegistered: Bool) {
        let index = capacity.trailingZeroBitCount - Self.smallestShift
        let keep = state.withLock { state in
            if isRegistered {
                state.freeRegistered[index].append(base)
                return true
            }
            guard state.idleOther + capacity <= Limits.idleBytes else { return false }
            state.idleOther += capacity
            state.freeOther[index].append(base)
            return true
        }
        if !keep { apus_unmap_memory(base, capacity) }
    }

    deinit {
        state.withLock { state in
            for (index, list) in state.freeOther.enumerated() {
                for base in list { apus_unmap_memory(base, 1 << (index + Self.smallestShift)) }
            }
        }
        if arenaBytes > 0 { apus_unmap_memory(arena.baseAddress, arenaBytes) }
    }
}
