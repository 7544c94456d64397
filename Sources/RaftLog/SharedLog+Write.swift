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
    /// How a request went into a batch.
    enum Encoded {
        /// All of it is in.
        case whole
        /// As much as fits; the rest goes into the next batch.
        case part
        /// Nothing of it fits into what is left.
        case full
        /// It looks at the group's durable state, which the batch changes: another batch.
        case later
        /// It has nothing to write.
        case nothing
        case refused(StoreError)
    }

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
        var done: [LogRequest] = []
        let (bodySize, recordCount, isNoted) = fill(&done)
        guard recordCount > 0 || isNoted else {
            finishAll(done)
            // Either all of it needed no writing, or the first does not fit here.
            if let request = pending.first { try await makeRoom(for: request) }
            return
        }
        let salt = ledger.current.salt
        let header = LogBytes.BatchHeader(
            salt: salt, number: nextBatch, recordCount: recordCount, bodySize: bodySize,
            oldest: oldestNeeded)
        header.seal(buffer.bytes)
        let size = header.paddedSize
        do throws(IOError) {
            try await file.write(Payload(buffer, 0..<size), at: end)
            try await file.synchronize()
        } catch {
            let failure = unusable(error)
            for request in done { finish(request, failure) }
            throw failure
        }
        nextBatch += 1
        end += size
        durableOldest = header.oldest
        counts.batches += 1
        counts.bytesWritten += size
        counts.calls += done.count
        let moved = counts.bytesMoved
        applyEffects()
        moveBudget += 2 * size - 3 * (counts.bytesMoved - moved)
        finishAll(done)
    }

    func unusable(_ error: IOError) -> StoreError {
        StoreError(
            StoreError(error).code == .noSpace ? .io : StoreError(error).code,
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
                for (place, other) in waiting.enumerated() {
                    if place > 0 && other.makesRoom {
                        pending.append(other)
                    } else {
                        finish(other, error)
                    }
                }
            }
        }
    }

    // MARK: Encoding

    private func encode(
        _ request: LogRequest, _ writer: inout RecordWriter, room: Int
    ) -> Encoded {
        guard let group = request.group else { return .nothing }
        let (isRemoved, isPending) = group.state.withLock { ($0.isRemoved, $0.pending != nil) }
        if isRemoved {
            return .refused(StoreError(.notReady, "the group \(group.id) was removed from the log"))
        }
        switch request.work {
        case .append(let entries, let hardState):
            if isBetterWhole(request, entries.count, fixed: 0, room: room) { return .full }
            return encode(entries, hardState, of: group, done: request.done, &writer, room: room)
        case .install(let snapshot, let entries, let hardState):
            if isPending { return .later }
            let size = LogBytes.anchorRecordSize(snapshot.confState)
            if isBetterWhole(request, entries.count, fixed: size, room: room) {
                return .full
            }
            let start = writer.at
            let encoded = encode(snapshot, hardState, of: group, &writer, room: room)
            guard case .whole = encoded else { return encoded }
            pending[0].work = .append(
                entries: entries, hardState: entries.isEmpty ? nil : hardState)
            return encode(pending[0], &writer, room: room - (writer.at - start))
        case .anchor(let change):
            if isPending { return .later }
            return encode(change, of: group, &writer, room: room)
        case .move(let entries):
            if isPending { return .later }
            return encode(entries, of: group, &writer, room: room)
        case .remove:
            if isPending { return .later }
            guard room >= LogBytes.recordHeaderSize else { return .full }
            writer.removal(of: group.id)
            note(.remove(group), (0, 0))
            return .whole
        case .note: return .nothing
        }
    }

    /// Whether entries that do not fit here would fit into a batch of their own: only what no
    /// batch could hold is split.
    private func isBetterWhole(
        _ request: LogRequest, _ count: Int, fixed: Int, room: Int
    ) -> Bool {
        let size =
            fixed + request.bytes + LogBytes.entryHeaderSize * count + LogBytes.hardStateSize
            + LogBytes.entriesHeaderSize + 2 * LogBytes.recordHeaderSize
        return size > room && size <= options.batchSize - LogBytes.blockSize
    }

    private func note(_ effect: BatchEffect, _ bounds: (LogIndex, LogIndex)) {
        effects.append(effect)
        effect.group.state.withLock { $0.pending = bounds }
    }

    private func encode(
        _ entries: [Entry], _ hardState: HardState?, of group: GroupLog, done: Int,
        _ writer: inout RecordWriter, room: Int
    ) -> Encoded {
        let (bounds, known) = group.state.withLock { state in
            (state.pending ?? (state.anchor.base, state.anchor.last), state.anchor.hardState)
        }
        if let hardState {
            precondition(
                hardState.term > known.term
                    || hardState.term == known.term
                        && (known.vote == .none || hardState.vote == known.vote),
                "term or vote of group \(group.id) would go back")
        }
        let start = firstToWrite(entries, done: done, base: bounds.base)
        var last = bounds.last
        let stateSize =
            hardState == nil ? 0 : LogBytes.recordHeaderSize + LogBytes.hardStateSize
        var end = start
        let from = places.count
        if start < entries.count {
            if let refusal = refusal(of: entries[start], in: group, bounds) {
                return .refused(refusal)
            }
            let first =
                LogBytes.recordHeaderSize + LogBytes.entriesHeaderSize
                + LogBytes.entryHeaderSize + entries[start].data.count
            guard first + stateSize <= room else { return .full }
            var left = room - stateSize - LogBytes.recordHeaderSize - LogBytes.entriesHeaderSize
            writer.beginEntries(.entries, of: group.id, first: entries[start].index)
            while end < entries.count {
                left -= LogBytes.entryHeaderSize + entries[end].data.count
                if left < 0 { break }
                place(entries[end], of: group, &writer)
                end += 1
            }
            writer.endEntries()
            last = entries[end - 1].index
        } else if hardState == nil {
            return .nothing
        }
        guard stateSize <= room else { return .full }
        var written = hardState
        if let hardState {
            // A part of the entries: what is committed beyond them comes with the rest.
            written?.commit = max(
                min(hardState.commit, last), min(known.commit, last), bounds.base)
            writer.hardState(written ?? hardState, of: group.id)
        }
        note(
            .append(group, entries[start..<end], places: from..<places.count, written),
            (bounds.base, last))
        guard end < entries.count else { return .whole }
        pending[0].done = end
        return .part
    }

    private func firstToWrite(_ entries: [Entry], done: Int, base: LogIndex) -> Int {
        guard done == 0, let first = entries.first, first.index <= base else { return done }
        return min(entries.count, Int(base - first.index) + 1)
    }

    private func place(_ entry: Entry, of group: GroupLog, _ writer: inout RecordWriter) {
        let offset = writer.add(entry, seed: group.seed)
        places.append(
            LogPosition(
                segment: ledger.current.sequence, offset: UInt32(end + offset),
                length: UInt32(entry.data.count)))
    }

    private func refusal(
        of entry: Entry, in group: GroupLog, _ bounds: (base: LogIndex, last: LogIndex)
    ) -> StoreError? {
        guard entry.index <= bounds.last + 1 else {
            return StoreError(
                .preconditionFailed,
                "entry \(entry.index) of group \(group.id) does not follow its last, "
                    + "\(bounds.last)")
        }
        group.state.withLock { state in
            guard entry.index <= state.anchor.hardState.commit, entry.index >= state.first,
                entry.index <= state.last
            else { return }
            precondition(
                state.term(of: entry.index) == entry.term,
                "the committed entry \(entry.index) of group \(group.id) would be replaced")
        }
        return nil
    }

    private func encode(
        _ snapshot: SnapshotMetadata, _ hardState: HardState?, of group: GroupLog,
        _ writer: inout RecordWriter, room: Int
    ) -> Encoded {
        var anchor = group.state.withLock { $0.anchor }
        if snapshot.index < anchor.base {
            return .refused(
                StoreError(
                    .preconditionFailed,
                    "a snapshot at \(snapshot.index) for group \(group.id), whose log begins "
                        + "after \(anchor.base)"))
        }
        if let hardState { anchor.hardState = hardState }
        anchor.hardState.commit = snapshot.index
        anchor.base = snapshot.index
        anchor.baseTerm = snapshot.term
        anchor.last = snapshot.index
        anchor.confState = snapshot.confState
        anchor.confIndex = snapshot.index
        return write(anchor, .install, of: group, &writer, room: room)
    }

    private func write(
        _ anchor: GroupAnchor, _ cause: LogBytes.AnchorCause, of group: GroupLog,
        _ writer: inout RecordWriter, room: Int
    ) -> Encoded {
        guard LogBytes.anchorRecordSize(anchor.confState) <= room else { return .full }
        writer.anchor(anchor, of: group.id, cause: cause)
        note(.anchor(group, anchor, cause), (anchor.base, anchor.last))
        return .whole
    }

    private func encode(
        _ change: LogRequest.AnchorChange, of group: GroupLog, _ writer: inout RecordWriter,
        room: Int
    ) -> Encoded {
        let (current, segment) = group.state.withLock { ($0.anchor, $0.anchorSegment) }
        var anchor = current
        switch change {
        case .create: return write(anchor, .create, of: group, &writer, room: room)
        case .move(let old):
            guard segment == old else { return .nothing }
            return write(anchor, .move, of: group, &writer, room: room)
        case .members(let confState, let index):
            guard index >= anchor.confIndex else { return .nothing }
            anchor.confState = confState
            anchor.confIndex = index
            return write(anchor, .members, of: group, &writer, room: room)
        case .compact(let index, let confState):
            guard index > anchor.base else { return .nothing }
            guard index <= anchor.last else {
                return .refused(
                    StoreError(
                        .preconditionFailed,
                        "entry \(index) of group \(group.id) cannot be dropped: the last is "
                            + "\(anchor.last)"))
            }
            // What was applied is committed, whether or not that was written yet.
            anchor.hardState.commit = max(anchor.hardState.commit, index)
            anchor.baseTerm = group.state.withLock { $0.term(of: index) }
            anchor.base = index
            if let confState, index >= anchor.confIndex {
                anchor.confState = confState
                anchor.confIndex = index
            }
            return write(anchor, .compact, of: group, &writer, room: room)
        }
    }

    /// Precondition: the entries have consecutive indexes and fit into an empty batch.
    private func encode(
        _ entries: [MovedEntry], of group: GroupLog, _ writer: inout RecordWriter, room: Int
    ) -> Encoded {
        // Those dropped since were a prefix or a suffix.
        let kept = group.state.withLock { state in
            entries.filter { moved in
                let index = moved.entry.index
                return index >= state.first && index <= state.last
                    && state.position(of: index) == moved.old
            }
        }
        guard let first = kept.first, let last = kept.last else { return .nothing }
        guard last.entry.index - first.entry.index == UInt64(kept.count - 1) else {
            return .nothing
        }
        var size = LogBytes.recordHeaderSize + LogBytes.entriesHeaderSize
        for moved in kept { size += LogBytes.entryHeaderSize + moved.entry.data.count }
        guard size <= room else { return .full }
        let from = places.count
        writer.beginEntries(.moved, of: group.id, first: first.entry.index)
        for moved in kept { place(moved.entry, of: group, &writer) }
        writer.endEntries()
        let bounds = group.state.withLock { ($0.anchor.base, $0.anchor.last) }
        note(.move(group, kept[...], places: from..<places.count), bounds)
        return .whole
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
}
