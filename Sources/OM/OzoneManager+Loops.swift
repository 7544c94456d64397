import Logging
import Model
import OMCore
import RaftDriver
import Reactor
import Wire

// What goes on in the background: deleted blocks are handed to SCM, what was left open expires.

extension OzoneManager {
    func deleteBlocksForever() async {
        while !Task.isCancelled {
            do {
                try await group.reactor.sleep(for: options.deletionInterval)
                while try await deleteBlocks(), !Task.isCancelled {}
            } catch is CancellationError {
                return
            } catch {
                logger.warning("deleted blocks stay for now: \(error)")
            }
        }
    }

    /// Looks at some discarded blocks that are due, hands to SCM those that nobody reads, and
    /// forgets them. Returns whether there may be more. A crash in between hands them over again.
    ///
    /// Calls come one after the other.
    func deleteBlocks() async throws(StoreError) -> Bool {
        let time = uptime()
        guard let (due, start) = nextLook(at: time) else { return false }
        let page = try await read { reads in
            reads.discarded(
                from: start, through: due, limit: Limits.deletionRecords,
                blocks: Limits.deletionBatch)
        }
        let free = notHeld(page.records, at: time)
        let refused = try await handOver(free)
        endLook(page, passedOver: page.records.count - free.count + refused)
        return !page.isAtEnd
    }

    func expireForever() async {
        while !Task.isCancelled {
            do {
                try await group.reactor.sleep(for: options.expiryInterval)
                try await expire()
            } catch is CancellationError {
                return
            } catch {
                logger.warning("what was left open stays for now: \(error)")
            }
        }
    }

    /// Drops open keys and aborts uploads that are older than they may be.
    func expire() async throws(StoreError) {
        try await expireOpens()
        try await expireUploads()
    }

    private func expireOpens() async throws(StoreError) {
        let before = time(before: options.openKeyAge)
        let reservedBefore = time(before: options.reservedKeyAge)
        var next: [UInt8]? = []
        while let start = next {
            let found = try await read { reads in
                reads.oldOpens(
                    before: before, reservedBefore: reservedBefore, from: start,
                    limit: OMLimits.expiryBatch)
            }
            next = found.next
            for error in found.unreadable { logger.error("an open key stays: \(error.message)") }
            // A reserved key has no name for as long as it is open: it stays among these.
            try await expire(found.reserved, before: reservedBefore)
            try await expire(found.named, before: before)
        }
    }

    private func expire(_ opens: [UInt64], before: Int64) async throws(StoreError) {
        guard !opens.isEmpty else { return }
        var command = OMExpireOpensCommand()
        command.openIds = opens
        command.before = before
        _ = try await propose(.expireOpens(command))
        logger.info("\(opens.count) open keys have expired")
    }

    private func expireUploads() async throws(StoreError) {
        let before = time(before: options.uploadAge)
        var next: [UInt8]? = []
        while let start = next {
            let found = try await read { reads in
                reads.oldUploads(before: before, from: start, limit: OMLimits.expiryBatch)
            }
            next = found.next
            for error in found.unreadable { logger.error("an upload stays: \(error.message)") }
            guard !found.keys.isEmpty else { continue }
            var command = OMExpireUploadsCommand()
            command.keys = found.keys.map { .octets($0) }
            command.before = before
            _ = try await propose(.expireUploads(command))
            logger.info("\(found.keys.count) uploads have expired")
        }
    }

    private func time(before: Duration) -> Int64 {
        now().milliseconds - before.components.seconds * 1000
            - before.components.attoseconds / 1_000_000_000_000_000
    }
}
