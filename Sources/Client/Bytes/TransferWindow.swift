import Synchronization

/// Memory for bytes that are on their way to and from datanodes, divided among the transfers of a
/// process: with few each has as much as helps it, with many the sum stays within bounds.
///
/// A transfer takes one stripe regardless of its share, so that each goes on; `bytes` and a stripe
/// or two for each transfer are what all take together. Thread-safe.
final class TransferWindow: Sendable {
    /// What all shares add up to, in bytes.
    let bytes: Int
    private let transfers = Atomic<Int>(0)

    /// Precondition: `bytes` is not negative.
    init(bytes: Int) {
        precondition(bytes >= 0, "a window has no less than no bytes")
        self.bytes = bytes
    }

    /// A transfer begins; balanced by `leave`.
    func enter() { transfers.add(1, ordering: .relaxed) }

    /// A transfer has ended.
    func leave() { transfers.subtract(1, ordering: .relaxed) }

    /// What one of the present transfers may have on its way now, in bytes.
    var share: Int { bytes / max(1, transfers.load(ordering: .relaxed)) }
}
