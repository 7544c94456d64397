import CLinux

/// Memory that another process made and shares, mapped into this one until the last reference
/// goes.
///
/// The other process may write to it at any moment: what is read from it is checked where it
/// matters, and checked bytes may have changed since. It cannot take the memory away: only
/// descriptors sealed against shrinking are mapped, so no access faults.
///
/// `@unchecked Sendable`: address and size never change; for the bytes the rule of
/// `AlignedBuffer` holds within this process.
public final class SharedMap: @unchecked Sendable {
    public let base: UnsafeMutableRawPointer
    public let count: Int

    /// Why shared memory is not taken.
    public enum Failure: Error, Hashable, Sendable {
        /// It can be shrunk, or is no shared memory. The number is the system's.
        case notSealed(Int32)
        case tooLarge(Int, limit: Int)
        case noAddressSpace(Int)
    }

    /// Maps all of `descriptor`, which stays the caller's, at a place fit for huge pages.
    public init(descriptor: Int32, limit: Int) throws(Failure) {
        let size = Int(apus_sealed_size(descriptor))
        guard size > 0 else { throw .notSealed(Int32(clamping: -size)) }
        guard size <= limit else { throw .tooLarge(size, limit: limit) }
        guard let memory = apus_map_shared(descriptor, size, 2 << 20) else {
            throw .noAddressSpace(size)
        }
        base = memory
        count = size
    }

    deinit { apus_unmap_memory(base, count) }

    /// Where `payload` lies in this memory, nil if it lies elsewhere.
    public func offset(of payload: Payload) -> Int? {
        let offset = (payload.buffer.base + payload.offset) - base
        return offset >= 0 && offset + payload.count <= count ? offset : nil
    }
}
