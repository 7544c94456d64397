import DequeModule
import Model
import Raft
import Synchronization

/// How calls become records of the batch that is being put together.
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

    /// Writes as much of a request as goes into `room` bytes.
    func encode(
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
