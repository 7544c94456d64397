import Model
import Reactor

// A batch that was torn by a crash and one that rotted on the medium look the same: neither can be
// read. What comes behind tells them apart, since a batch is written only when the one before is
// durable. Behind the last batch nothing comes while nobody writes, and its loss would be taken
// for the end of the log: acknowledged entries and votes would be gone without a word.
//
// So the last batch is proven by an empty one, which needs no new format: batches without records
// were always there, to note which segments are needed. Its own loss costs nothing. What remains is
// a batch that rots before it is a second old, in a log that is then not closed.

extension SharedLog {
    /// Has the last batch proven when the log has been at rest for a while.
    func proveSoon() {
        guard prover == nil, let delay = options.proofDelay else { return }
        prover = Task(executorPreference: reactor) { await self.proveAtRest(after: delay) }
    }

    private func proveAtRest(after delay: Duration) async {
        defer { prover = nil }
        while !isProven, !Task.isCancelled {
            let seen = counts.batches
            do {
                try await reactor.sleep(for: delay)
                guard counts.batches == seen, !isProven else { continue }
                guard hasRoomForProof else { return }
                try await submit(.note, of: nil)
            } catch {
                // The log is being closed, which proves as well, or is broken.
                return
            }
        }
    }

    /// Proves the last batch as the log closes, by its writer.
    func proveAtEnd() async {
        guard options.proofDelay != nil, failure == nil, !isProven, hasRoomForProof else { return }
        do throws(StoreError) {
            try await writeProof()
        } catch {
            // All that was acknowledged is durable; it is not known whether the proof is.
            failure = error
        }
    }

    /// No segment is begun for a proof: its header is one for all before it, when it comes.
    private var hasRoomForProof: Bool {
        activation?.isRenamed != true && capacity - end >= LogBytes.blockSize
    }
}
