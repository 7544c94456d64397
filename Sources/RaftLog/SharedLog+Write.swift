import Bytes
import DequeModule
import Model
import Raft
import Reactor
import Synchronization

/// What a batch changes once it is durable.
enum BatchEffect {
    /// `places` are the part of `SharedLog.places` that belongs to the entries.
    case append(GroupLog, ArraySlice<Entry>, places: Range<Int>, HardState?)
    case anchor(GroupLog, GroupAnchor, LogBytes.AnchorCause)
    case move(GroupLog, ArraySlice<MovedEntry>, places: Range<Int>)
    case remove(GroupLog)
}

/// The log's one writer: puts what waits into a batch, writes and syncs it, and only then lets
/// anybody see it.
extension SharedLog {
    func write() async {
        while await takeWaiting() {
            if let failure {
                refuseAll(failure)
                continue
            }
            do throws(StoreError) {
                try await writeBatch()
            } catch {
                failure = error
                queue.withLock { $0.refusal = error }
                refuseAll(error)
            }
            maintainIfNeeded()
        }
        await proveAtEnd()
    }

    private func refuseAll(_ error: StoreError) {
        abandonBatch()
        while let request = pending.popFirst() { finish(request, error) }
    }

    private func finish(_ request: LogRequest, _ error: StoreError) {
        queue.withLock { queue in
            queue.count -= 1
            queue.bytes -= request.bytes
        }
        request.waiter.resume(returning: error)
    }

    /// Lets the callers of what is durable go on.
    private func finishAll(_ done: [LogRequest]) {
        var bytes = 0
        for request in done {
            bytes += request.bytes
            if case .anchor(.create) = request.work, let group = request.group {
                roster.withLock { $0.groups[group.id] = group }
            }
        }
        queue.withLock { queue in
            queue.count -= done.count
            queue.bytes -= bytes
        }
        for request in done { request.waiter.resume(returning: nil) }
    }

    /// Forgets what was put together and not written.
    private func abandonBatch() {
        for effect in effects { effect.group.state.withLock { $0.pending = nil } }
        effects.removeAll(keepingCapacity: true)
        places.removeAll(keepingCapacity: true)
    }

    // MARK: One batch

    /// Writes the next batch of what is pending. Throws when the log is unusable from now on.
    private func writeBatch() async throws(StoreError) {
        // The next segment has its name: nothing more goes into this one.
        if activation?.isRenamed == true, let request = pending.first {
            return try await makeRoom(for: request)
        }
        var done: [LogRequest] = []
        let (bodySize, recordCount, isNoted) = fill(&done)
        guard recordCount > 0 || isNoted else {
            finishAll(done)
            // Either all of it needed no writing, or the first does not fit here.
            if let request = pending.first { try await makeRoom(for: request) }
            return
        }
        let size: Int
        do throws(StoreError) {
            size = try await writeSealed(recordCount: recordCount, bodySize: bodySize)
        } catch {
            for request in done { finish(request, error) }
            throw error
        }
        counts.calls += done.count
        let moved = counts.bytesMoved
        let isMoveAlone = effects.allSatisfy(\.isMove)
        applyEffects()
        // What callers write pays for what is moved: else a batch of few bytes, which takes a block
        // all the same, would pay for the next one like it, and so on for ever.
        moveBudget += isMoveAlone ? -size : 2 * size - 3 * (counts.bytesMoved - moved)
        finishAll(done)
    }

    /// Writes a batch whose records are in the buffer, and returns its bytes with padding.
    private func writeSealed(recordCount: Int, bodySize: Int) async throws(StoreError) -> Int {
        let header = LogBytes.BatchHeader(
            salt: ledger.current.salt, number: nextBatch, recordCount: recordCount,
            bodySize: bodySize, oldest: oldestNeeded)
        header.seal(buffer.bytes)
        let size = header.paddedSize
        do throws(IOError) {
            try await writeOut(size)
        } catch {
            throw unusable(error)
        }
        nextBatch += 1
        end += size
        durableOldest = header.oldest
        isProven = recordCount == 0
        if !isProven { proveSoon() }
        counts.batches += 1
        counts.bytesWritten += size
        return size
    }

    /// Writes a batch without records.
    func writeProof() async throws(StoreError) {
        _ = try await writeSealed(recordCount: 0, bodySize: 0)
    }

    /// Makes the first `size` bytes of the buffer durable at the end of the segment. Where memory
    /// is wanting the same bytes are written again a little later, and what comes meanwhile is
    /// refused; only where the disk fails is it not known what is there.
    private func writeOut(_ size: Int) async throws(IOError) {
        while true {
            do throws(IOError) {
                try await file.write(Payload(buffer, 0..<size), at: end)
                return try await file.synchronize()
            } catch {
                guard error.isShortage, !queue.withLock({ $0.isClosing }) else { throw error }
                let refusal = StoreError(error)
                queue.withLock { if $0.refusal == nil { $0.refusal = refusal } }
                try? await reactor.sleep(for: Limits.shortageRetry)
                queue.withLock { queue in
                    guard queue.refusal == refusal else { return }
                    // Who closed the log meanwhile found this refusal in the place of its own.
                    queue.refusal =
                        queue.isClosing ? StoreError(.notReady, "the log is closed") : nil
                }
            }
        }
    }

    func unusable(_ error: IOError) -> StoreError {
        StoreError(
            .io,
            "the log cannot be written any more until it is opened again: \(error)")
    }

    /// The oldest segment that holds anything that is needed, or the one that is written to.
    private var oldestNeeded: UInt32 {
        for segment in ledger.segments where !segment.isFree { return segment.sequence }
        return ledger.current.sequence
    }

    /// Puts as much of what is pending into the buffer as goes into the segment's rest.
    private func fill(_ done: inout [LogRequest]) -> (Int, records: Int, isNoted: Bool) {
        let room = min(buffer.capacity, options.batchSize, capacity - end)
        guard room >= LogBytes.blockSize else { return (0, 0, false) }
        var writer = RecordWriter(UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<room]))
        // The rest of the last segment to be had is for what makes room.
        let reserved = spares.isEmpty ? max(0, end + room + options.reservedBytes - capacity) : 0
        var isNoted = false
        filling: while let request = pending.first {
            if case .note = request.work { isNoted = true }
            let kept = request.makesRoom ? 0 : reserved
            switch encode(request, &writer, room: writer.room - kept) {
            case .whole:
                done.append(request)
                pending.removeFirst()
            case .nothing:
                done.append(request)
                pending.removeFirst()
            case .refused(let error):
                pending.removeFirst()
                finish(request, error)
            case .part, .full, .later: break filling
            }
        }
        withExtendedLifetime(buffer) {}
        return (writer.at - LogBytes.BatchHeader.size, writer.count, isNoted)
    }

    /// Begins a new segment for `request`, which found no room in this one, or refuses it and
    /// all others that need room.
    private func makeRoom(for request: LogRequest) async throws(StoreError) {
        precondition(end > LogBytes.blockSize, "a call that no segment can take")
        do throws(SegmentFailure) {
            try await startSegment()
        } catch {
            switch error {
            case .unusable(let error): throw error
            case .none(let error):
                let waiting = pending
                pending.removeAll()
                let isBetween = activation?.isRenamed == true
                for (place, other) in waiting.enumerated() {
                    if place > 0 && other.makesRoom && !isBetween {
                        pending.append(other)
                    } else {
                        finish(other, error)
                    }
                }
            }
        }
    }
}

extension BatchEffect {
    var group: GroupLog {
        switch self {
        case .append(let group, _, _, _), .anchor(let group, _, _), .move(let group, _, _),
            .remove(let group):
            group
        }
    }

    /// Whether it is there only for a segment to be freed: nobody asked for it.
    var isMove: Bool {
        switch self {
        case .move, .anchor(_, _, .move): true
        case .append, .anchor, .remove: false
        }
    }
}
