import DequeModule
import Raft

/// What a member's core wants durable, several writes at a time as one.
///
/// Pure: told what is wanted and what was written.
struct AppendQueue {
    /// Several writes of the core as one.
    struct Batch {
        var entries: [Entry] = []
        var hardState: HardState?
        var snapshot: SnapshotMetadata?
        var responses: [Message] = []
        var bytes = 0

        var isEmpty: Bool {
            entries.isEmpty && hardState == nil && snapshot == nil && responses.isEmpty
        }

        /// Adds what the core wanted later: it replaces what it overlaps (Raft thesis, 3.5).
        mutating func add(_ message: Message) {
            if let snapshot = message.snapshot { self.snapshot = snapshot.metadata }
            if let first = message.entries.first?.index {
                while let last = entries.last, last.index >= first { entries.removeLast() }
                if entries.isEmpty {
                    entries = message.entries
                } else {
                    entries += message.entries
                }
                for entry in message.entries { bytes += entry.data.count }
            }
            if let state = message.hardState { hardState = state }
            responses += message.responses
        }
    }

    private var waiting: Deque<Message> = []
    /// Term and vote as they are on the medium, and what is to be written with the next entries.
    private var writtenState: HardState
    private var unwrittenState: HardState?

    init(written state: HardState) { writtenState = state }

    var isEmpty: Bool { waiting.isEmpty }

    mutating func add(_ message: Message) { waiting.append(message) }

    /// All that has gathered, as far as it can be written at once; nil if nothing has.
    mutating func next() -> Batch? {
        guard !waiting.isEmpty else { return nil }
        var batch = Batch()
        // A snapshot stands alone: what came before it is durable before it is answered,
        // and it is installed before anything that builds on it is written.
        while let next = waiting.first {
            if next.snapshot != nil, !batch.isEmpty { break }
            batch.add(next)
            waiting.removeFirst()
            if batch.snapshot != nil { break }
        }
        return batch
    }

    /// Whether anything of `batch` must be on the medium before it is answered; what else is to be
    /// written with it is added then, or kept for the next.
    ///
    /// A commit index alone need not be: it goes along with what is written next, and a restart learns
    /// of it in any case. So a command costs one sync, not a second one for the news that it is
    /// committed.
    mutating func begin(_ batch: inout Batch) -> Bool {
        if mustWrite(batch) {
            batch.hardState = batch.hardState ?? unwrittenState
            return true
        }
        unwrittenState = batch.hardState ?? unwrittenState
        return false
    }

    private func mustWrite(_ batch: Batch) -> Bool {
        guard batch.entries.isEmpty, batch.snapshot == nil else { return true }
        guard let state = batch.hardState else { return false }
        return state.term != writtenState.term || state.vote != writtenState.vote
    }

    /// The batch is durable.
    mutating func isWritten(_ batch: Batch) {
        writtenState = batch.hardState ?? writtenState
        unwrittenState = nil
    }
}
