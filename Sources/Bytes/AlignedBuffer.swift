/// Memory for I/O: aligned to 4 KiB as `O_DIRECT` wants it, taken from a `BufferPool` and given
/// back to it when the last reference goes.
///
/// Not initialised: a buffer holds whatever its last user left. Whoever fills it owns it alone;
/// once it has been handed on (to an I/O operation, a frame, another task) it is only read.
///
/// `@unchecked Sendable`: the object itself is immutable (address and size); the rule above makes
/// the bytes either private to one task or read-only. The pool orders the release of one user
/// before the next by its lock.
public final class AlignedBuffer: @unchecked Sendable {
    public let base: UnsafeMutableRawPointer
    /// Usable bytes: a multiple of 4096, at least what was asked for.
    public let capacity: Int
    /// Whether the memory lies in the pool's arena, which rings register as fixed buffer 0.
    public let isRegistered: Bool
    /// The pool it came from and goes back to; nil for memory that another object owns.
    public let pool: BufferPool?
    /// Keeps the memory in place, where it is not a pool's.
    private let owner: SharedMap?

    init(base: UnsafeMutableRawPointer, capacity: Int, isRegistered: Bool, pool: BufferPool) {
        self.base = base
        self.capacity = capacity
        self.isRegistered = isRegistered
        self.pool = pool
        owner = nil
    }

    /// A part of memory that another process shares. Precondition: it lies within the map and
    /// begins at a multiple of 4096.
    public init(_ range: Range<Int>, of map: SharedMap) {
        precondition(
            range.lowerBound >= 0 && range.upperBound <= map.count
                && range.lowerBound % Self.alignment == 0, "range outside of the shared memory")
        base = map.base + range.lowerBound
        capacity = range.count
        isRegistered = false
        pool = nil
        owner = map
    }

    deinit { pool?.release(base, capacity: capacity, isRegistered: isRegistered) }

    public static let alignment = 4096

    /// All bytes, for reading and writing. Lives as long as the buffer is referenced.
    @inlinable
    public var bytes: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: base, count: capacity)
    }

    /// The bytes of `range`. Precondition: it lies within the capacity.
    @inlinable
    public func bytes(in range: Range<Int>) -> UnsafeMutableRawBufferPointer {
        precondition(
            range.lowerBound >= 0 && range.upperBound <= capacity, "range outside of the buffer")
        return UnsafeMutableRawBufferPointer(
            start: base + range.lowerBound, count: range.count)
    }
}

/// A range of bytes of an `AlignedBuffer`: what travels behind a message.
public struct Payload: Sendable {
    public let buffer: AlignedBuffer
    public let offset: Int
    public let count: Int

    /// Precondition: `range` lies within the buffer.
    public init(_ buffer: AlignedBuffer, _ range: Range<Int>) {
        precondition(
            range.lowerBound >= 0 && range.upperBound <= buffer.capacity,
            "payload outside of its buffer")
        self.buffer = buffer
        offset = range.lowerBound
        count = range.count
    }

    /// Copies `bytes` into a buffer from `pool`.
    public init(copying bytes: some Collection<UInt8>, pool: BufferPool) {
        let buffer = pool.allocate(max(bytes.count, 1))
        buffer.bytes.copyBytes(from: bytes)
        self.init(buffer, 0..<bytes.count)
    }

    /// The bytes, valid while this value is kept alive.
    public func withBytes<R, E: Error>(
        _ body: (UnsafeRawBufferPointer) throws(E) -> R
    ) throws(E) -> R {
        defer { withExtendedLifetime(buffer) {} }
        return try body(UnsafeRawBufferPointer(buffer.bytes(in: offset..<offset + count)))
    }

    /// The bytes of a part, counted from the start of this payload.
    public func slice(_ range: Range<Int>) -> Payload {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "slice outside of payload")
        return Payload(buffer, offset + range.lowerBound..<offset + range.upperBound)
    }
}
