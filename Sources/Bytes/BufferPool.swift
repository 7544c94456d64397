import CLinux
import Synchronization

/// Aligned memory in size classes (powers of two from 4 KiB), kept for reuse.
///
/// A pool owns one arena, mapped when it is made. Rings register the first part of it as fixed
/// buffer 0, so reads and writes of that memory skip the kernel's page pinning. The arena is
/// private memory in huge pages, or, if asked for, shared memory whose descriptor may be passed to
/// a process of the same machine. Pages of the arena exist from their first use on, until
/// `releaseIdle` finds that nobody uses them any more. When the arena is used up, buffers come from
/// separate maps; of those at most `Limits.idleBytes` are kept when idle.
///
/// Thread-safe: one lock, held for a few instructions.
public final class BufferPool: Sendable {
    public enum Limits {
        /// The largest buffer that can be asked for.
        public static let largestBuffer = 64 << 20
        /// Bytes outside of the arena that are kept for reuse.
        public static let idleBytes = 256 << 20
        /// Bytes of the arena that rings register; their pages exist for as long.
        public static let registeredBytes = 64 << 20
    }

    struct State: @unchecked Sendable {
        // Pointers to memory of this pool that nobody else refers to while they are listed here.
        var freeRegistered: [FreeList]
        var freeArena: [FreeList]
        var freeOther: [FreeList]
        var arenaUsed = 0
        var idleOther = 0
        /// Rings that have the arena's first part registered.
        var registrations = 0
        /// `releaseIdle` is at work; no ring may register memory.
        var isReleasing = false
        /// A registration gave pages to what of the arena has never been a buffer; and they are
        /// being given back, so that no buffer may be made there.
        var unusedHasPages = false
        var isReleasingUnused = false
    }

    private static let smallestShift = 12
    static let classCount = 15  // 4 KiB … 64 MiB

    /// Bytes of a buffer of class `index`.
    static func size(_ index: Int) -> Int { 1 << (index + smallestShift) }

    let state: Mutex<State>
    let arenaAddress: UInt
    /// Bytes of the arena; 0 if there is none.
    public let arenaBytes: Int
    /// The arena as shared memory, to be passed to another process; -1 if it is private.
    public let arenaDescriptor: Int32

    /// The part of the arena to register with a ring. Empty if there is none.
    public var registeredArena: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(
            start: UnsafeMutableRawPointer(bitPattern: arenaAddress),
            count: min(arenaBytes, Limits.registeredBytes))
    }

    /// A pool with an arena of `arenaBytes` (rounded up to 2 MiB); 0 for none.
    /// - Parameter isShareable: in shared memory, where the system has it.
    public init(arenaBytes: Int = 0, isShareable: Bool = false) {
        let rounded = (arenaBytes + (2 << 20) - 1) & ~((2 << 20) - 1)
        var memory: UnsafeMutableRawPointer?
        var descriptor: Int32 = -1
        if rounded > 0 {
            if isShareable { descriptor = max(apus_shared_memory("apus-arena", rounded), -1) }
            if descriptor >= 0 { memory = apus_map_shared(descriptor, rounded, 2 << 20) }
            if memory == nil {
                // An old kernel, or a limit on shared memory: private memory does as well here.
                if descriptor >= 0 { apus_close(descriptor) }
                descriptor = -1
                memory = apus_map_memory(rounded, 2 << 20)
            }
        }
        arenaDescriptor = descriptor
        arenaAddress = UInt(bitPattern: memory)
        self.arenaBytes = memory == nil ? 0 : rounded
        let empty = [FreeList](repeating: FreeList(), count: Self.classCount)
        state = Mutex(State(freeRegistered: empty, freeArena: empty, freeOther: empty))
    }

    /// The pool shared by everything in a process that has no pool of its own.
    ///
    /// Private, unless `shareProcessPool` was called before its first use.
    public static let process: BufferPool = {
        let isShareable = sharesProcessPool.load(ordering: .relaxed)
        let pool = BufferPool(arenaBytes: 1 << 30, isShareable: isShareable)
        if hasSmallPages.load(ordering: .relaxed) {
            apus_use_small_pages(
                UnsafeMutableRawPointer(bitPattern: pool.arenaAddress), pool.arenaBytes)
        }
        return pool
    }()

    private static let sharesProcessPool = Atomic<Bool>(false)
    private static let hasSmallPages = Atomic<Bool>(false)

    /// Has the process's pool be shareable: for processes that write to and read from datanodes,
    /// of which some may be on the same machine. To be called before anything uses the pool.
    public static func shareProcessPool() { sharesProcessPool.store(true, ordering: .relaxed) }

    /// Has the process's pool use small pages: for processes that move few bytes, and would hold
    /// 2 MiB for each few KiB that they use. To be called before anything uses the pool.
    public static func keepProcessPoolSmall() { hasSmallPages.store(true, ordering: .relaxed) }

    /// Where `payload` lies in the arena, nil if it lies elsewhere.
    public func arenaOffset(of payload: Payload) -> Int? {
        let address = UInt(bitPattern: payload.buffer.base) + UInt(payload.offset)
        guard arenaBytes > 0, address >= arenaAddress,
            address + UInt(payload.count) <= arenaAddress + UInt(arenaBytes)
        else { return nil }
        return Int(address - arenaAddress)
    }

    /// A buffer of at least `count` bytes. Precondition: 0 < count ≤ `Limits.largestBuffer`.
    public func allocate(_ count: Int) -> AlignedBuffer {
        precondition(
            count > 0 && count <= Limits.largestBuffer, "a buffer has 1 byte to 64 MiB")
        let shift = max(Self.smallestShift, Int.bitWidth - (count - 1).leadingZeroBitCount)
        let index = shift - Self.smallestShift
        let size = 1 << shift
        let found: (UnsafeMutableRawPointer, Bool)? = state.withLock { state in
            if let base = state.freeRegistered[index].take() { return (base, true) }
            if let base = state.freeArena[index].take() { return (base, false) }
            if state.arenaUsed + size <= arenaBytes, !state.isReleasingUnused {
                let base = UnsafeMutableRawPointer(bitPattern: arenaAddress)! + state.arenaUsed
                state.arenaUsed += size
                return (base, state.arenaUsed <= Limits.registeredBytes)
            }
            if let base = state.freeOther[index].take() {
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
        let address = UInt(bitPattern: base)
        let isInArena = address >= arenaAddress && address < arenaAddress + UInt(arenaBytes)
        let keep = state.withLock { state in
            if isRegistered {
                state.freeRegistered[index].put(base)
                return true
            }
            if isInArena {
                state.freeArena[index].put(base)
                return true
            }
            guard state.idleOther + capacity <= Limits.idleBytes else { return false }
            state.idleOther += capacity
            state.freeOther[index].put(base)
            return true
        }
        if !keep { apus_unmap_memory(base, capacity) }
    }

    deinit {
        state.withLock { state in
            for index in state.freeOther.indices {
                for base in state.freeOther[index].takeAll() {
                    apus_unmap_memory(base, Self.size(index))
                }
            }
        }
        if arenaBytes > 0 {
            apus_unmap_memory(UnsafeMutableRawPointer(bitPattern: arenaAddress), arenaBytes)
        }
        if arenaDescriptor >= 0 { apus_close(arenaDescriptor) }
    }
}
