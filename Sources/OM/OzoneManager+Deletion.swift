import Logging
import Model
import OMCore
import RaftDriver
import Reactor
import Synchronization
import Telemetry
import Wire

// Discarded blocks are handed to SCM a grace later, unless somebody is still reading them.

extension OzoneManager {
    // MARK: Holding

    /// Holds blocks for one grace more, for readers that are under way. Throws `invalidArgument`
    /// for too many at once, `overloaded` if there is no room for them.
    func holdBlocks(_ request: OMHoldBlocksRequest) throws(StoreError) -> OMHoldBlocksResponse {
        guard request.blocks.count <= OMLimits.blocksPerHold else {
            throw StoreError(
                .invalidArgument,
                "at most \(OMLimits.blocksPerHold) blocks are held with one request, "
                    + "not \(request.blocks.count)")
        }
        let blocks = request.blocks.map { BlockID($0) }
        let time = uptime()
        try holds.withLock { holds throws(StoreError) in
            try holds.hold(blocks, at: time)
            measures.held.set(holds.count)
        }
        var response = OMHoldBlocksResponse()
        response.graceMilliseconds = Self.nanoseconds(options.deletionDelay) / 1_000_000
        return response
    }

    /// 0 for a duration below 0.
    static func nanoseconds(_ duration: Duration) -> UInt64 {
        let (seconds, attoseconds) = duration.components
        return UInt64(max(0, seconds * 1_000_000_000 + attoseconds / 1_000_000_000))
    }

    // MARK: Handing over

    /// The last command whose discarded blocks are due, and where to look for them; nil if none
    /// can be due yet.
    func nextLook(at time: UInt64) -> (due: UInt64, start: [UInt8])? {
        let applied = appliedIndex
        return schedule.withLock { schedule in
            schedule.note(applied: applied, at: time)
            return schedule.due(at: time).map { ($0, schedule.begin(at: time)) }
        }
    }

    /// What was found is done with, but for what cannot be read and `passedOver` more records.
    func endLook(_ page: OMReads.DiscardedPage, from start: [UInt8], passedOver: Int) {
        for (key, error) in page.unreadable {
            logger.error(
                "discarded blocks of command \(Self.command(of: key)) stay: \(error.message)")
        }
        let left = passedOver + page.unreadable.count
        measures.passedOver.add(UInt64(left))
        schedule.withLock {
            $0.advance(from: start, to: page.next, isAtEnd: page.isAtEnd, passedOver: left)
        }
    }

    private static func command(of key: [UInt8]) -> String {
        key.count < 8 ? "\(key)" : String(key.bigEndian(at: 0, as: UInt64.self))
    }

    /// Those of `records` of which nobody reads a block, or that have been held for too long.
    func notHeld(
        _ records: [OMReads.Discarded], at time: UInt64, now: Int64
    ) -> [OMReads.Discarded] {
        let oldest = now - OMLimits.longestHold
        return holds.withLock { holds in
            holds.removeExpired(at: time)
            measures.held.set(holds.count)
            guard holds.count > 0 else { return records }
            return records.filter { record in
                record.deleted < oldest || !record.blocks.contains { holds.isHeld($0, at: time) }
            }
        }
    }

    /// Hands `records` to SCM and forgets them. Returns how many SCM refuses: those stay, and do
    /// not keep others. Throws where SCM cannot be asked, with those forgotten that it has taken.
    func handOver(_ records: [OMReads.Discarded]) async throws(StoreError) -> Int {
        var batches = records.isEmpty ? [] : [records[...]]
        var taken: [[UInt8]] = []
        var refusals = 0
        var refused = 0
        while let batch = batches.popLast() {
            guard refusals < Limits.refusals else {
                refused += batch.count
                continue
            }
            do throws(StoreError) {
                // Readers tell the leader what they hold, and it may be another by now. One that
                // does not know yet is told by the barrier, or not answered.
                try await group.readBarrier()
                guard leads else { throw group.notLeader }
                try await send(batch)
                taken += batch.map(\.key)
            } catch {
                guard Self.isRefusal(error) else {
                    try await purge(taken)
                    throw error
                }
                refusals += 1
                guard batch.count > 1 else {
                    refused += 1
                    let command = Self.command(of: batch[batch.startIndex].key)
                    logger.error("SCM refuses what command \(command) discarded: \(error)")
                    continue
                }
                // Which of them it is, by halves.
                let middle = batch.startIndex + batch.count / 2
                batches += [batch[middle...], batch[..<middle]]
            }
        }
        try await purge(taken)
        return refused
    }

    /// Has SCM take charge of the blocks of `records`. A record of an earlier version may have more
    /// of them than one request takes.
    private func send(_ records: ArraySlice<OMReads.Discarded>) async throws(StoreError) {
        let all = records.flatMap(\.blocks)
        let size = 2 * Limits.deletionBatch
        for start in stride(from: 0, to: all.count, by: size) {
            let end = min(start + size, all.count)
            try await blocks.delete(Array(all[start..<end]))
            measures.handedOver.add(UInt64(end - start))
        }
    }

    private func purge(_ keys: [[UInt8]]) async throws(StoreError) {
        guard !keys.isEmpty else { return }
        var command = OMPurgeDeletedCommand()
        command.keys = keys.map { .octets($0) }
        _ = try await propose(.purgeDeleted(command))
    }

    /// Whether `error` is about what was asked: the same request fails again, others need not.
    private static func isRefusal(_ error: StoreError) -> Bool {
        switch error.code {
        case .invalidArgument, .badRequest, .corrupt, .internal, .noSuchContainer, .noSuchBlock,
            .containerState:
            true
        default:
            false
        }
    }
}
