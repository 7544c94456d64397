import Logging
import Model
import OMCore
import RaftDriver
import Reactor
import Synchronization
import Wire

// What goes on in the background, on the member that leads: closings are heard of, what was left
// open or behind expires.

extension OzoneManager {
    /// Hears from SCM which containers take no new blocks, before datanodes close them, so that
    /// no group in one is handed out.
    func watchClosings() async {
        let watcher = randomIdentity()
        var mark = ClosingsMark()
        while !Task.isCancelled {
            do {
                try await group.reactor.sleep(for: options.closingsInterval)
                guard leads else { continue }
                let closings = try await blocks.closings(since: mark, watcher: watcher)
                if closings.isIncomplete { leases.invalidate(nil) }
                leases.close(closings.containers)
                mark = closings.mark
            } catch is CancellationError {
                return
            } catch {
                // Writers that meet a closed container meanwhile ask for another.
                logger.debug("what containers are closing is not known: \(error)")
            }
        }
    }

    func deleteBlocksForever() async {
        while !Task.isCancelled {
            do {
                try await group.reactor.sleep(for: options.deletionInterval)
                guard leads else { continue }
                try await dropOrphansIfAny()
                while leads, try await deleteBlocks(), !Task.isCancelled {}
            } catch is CancellationError {
                return
            } catch {
                logger.warning("deleted blocks stay for now: \(error)")
            }
        }
    }

    /// Looks for uploads of deleted buckets if there may be some: a bucket was deleted, or this
    /// process has not looked yet.
    func dropOrphansIfAny() async throws(StoreError) {
        guard mayHaveOrphans.exchange(false, ordering: .relaxed) else { return }
        do throws(StoreError) {
            try await dropOrphans()
        } catch {
            mayHaveOrphans.store(true, ordering: .relaxed)
            throw error
        }
    }

    /// Takes away what uploads of deleted buckets have left, a bounded command at a time.
    func dropOrphans() async throws(StoreError) {
        while true {
            let keys = try await read { reads throws(StoreError) in
                try reads.orphanUploads(
                    limit: OMLimits.expiryBatch, partLimit: OMLimits.orphanParts)
            }
            guard !keys.isEmpty else { return }
            var command = OMExpireUploadsCommand()
            command.keys = keys.map { .octets($0) }
            _ = try await propose(.expireUploads(command))
            logger.info("\(keys.count) uploads of deleted buckets are gone")
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
        let free = notHeld(page.records, at: time, now: try await logTime())
        let refused = try await handOver(free)
        endLook(page, from: start, passedOver: page.records.count - free.count + refused)
        return !page.isAtEnd
    }

    func expireForever() async {
        while !Task.isCancelled {
            do {
                try await group.reactor.sleep(for: options.expiryInterval)
                guard leads else { continue }
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
        try await dropOrphans()
        try await expireUploads()
    }

    private func expireOpens() async throws(StoreError) {
        let now = try await latestLogTime()
        let before = Self.time(now, before: options.openKeyAge)
        let reservedBefore = Self.time(now, before: options.reservedKeyAge)
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
        let before = Self.time(try await latestLogTime(), before: options.uploadAge)
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

    /// The log's time, with regard to what other leaders have logged.
    private func latestLogTime() async throws(StoreError) -> Int64 {
        if let logged = try await read({ reads in reads.logTime }) { observe(logged: logged) }
        return try await logTime()
    }

    private static func time(_ now: Int64, before: Duration) -> Int64 {
        now - before.components.seconds * 1000
            - before.components.attoseconds / 1_000_000_000_000_000
    }
}
