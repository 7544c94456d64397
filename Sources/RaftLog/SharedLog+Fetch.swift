import Bytes
import DequeModule
import Model
import Raft
import Reactor
import Synchronization

extension SharedLog {
    /// Reads entries from disk into the group's cache; see `GroupLog.fetch`.
    func fetch(
        _ group: GroupLog, from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) async throws(StoreError) {
        precondition(lo < hi, "a fetch of at least one entry")
        let limit = min(maxSize, max(options.cacheBytes / 4, 1))
        let (range, isThere, first, last) = group.state.withLock { state in
            state.missing(from: lo, to: hi, maxSize: limit)
        }
        guard isThere else {
            throw StoreError(
                .preconditionFailed,
                "entries \(lo) to \(hi - 1) of group \(group.id) were asked for; the log has "
                    + "\(first) to \(last)")
        }
        guard !range.isEmpty else { return }
        let entries = try await read(group, range, isMoving: false).map(\.entry)
        counts.entriesFetched += entries.count
        cachedBytes += group.state.withLock { state in
            let before = state.cache.bytes
            // Dropped or replaced while they were read: the next call sees what is there now.
            if let last = entries.last, entries[0].index >= state.first, last.index <= state.last {
                state.cache.insert(run: entries)
            }
            return state.cache.bytes - before
        }
        if cachedBytes > options.cacheBytes { shrinkCaches(to: options.cacheBytes, sparing: group) }
    }

    /// The entries of `range`, read from where they lie. Empty if that changed meanwhile.
    func read(
        _ group: GroupLog, _ range: Range<LogIndex>, isMoving: Bool
    ) async throws(StoreError) -> [MovedEntry] {
        let places = group.state.withLock { $0.positions(in: range) }
        guard let places else { return [] }
        if queue.withLock({ $0.isClosing }) { throw StoreError(.notReady, "the log is closed") }
        readsUnderWay += 1
        defer { readsUnderWay -= 1 }
        var found: [MovedEntry] = []
        found.reserveCapacity(places.count)
        var at = 0
        while at < places.count {
            let end = Self.runEnd(places, from: at)
            let read: Result<[Entry], StoreError>
            do throws(StoreError) {
                read = .success(
                    try await self.read(
                        places[at..<end], first: range.lowerBound + UInt64(at), of: group))
            } catch {
                read = .failure(error)
            }
            // Its segment may have been reused while it was read; then it is somewhere else now,
            // or gone.
            guard group.state.withLock({ $0.positions(in: range) }) == places else {
                return try await isMoving ? [] : again(group, range)
            }
            for (place, entry) in zip(at..<end, try read.get()) {
                found.append(MovedEntry(entry: entry, old: places[place]))
            }
            at = end
        }
        return found
    }

    private func again(
        _ group: GroupLog, _ range: Range<LogIndex>
    ) async throws(StoreError) -> [MovedEntry] {
        try await read(group, range, isMoving: false)
    }

    /// How far places go from `start` on that one read can take.
    private static func runEnd(_ places: [LogPosition], from start: Int) -> Int {
        let first = places[start]
        var end = start + 1
        while end < places.count, places[end].segment == first.segment,
            places[end].offset > places[end - 1].offset,
            Int(places[end].offset) + places[end].size - Int(first.offset) <= Limits.readBytes
        {
            end += 1
        }
        return end
    }

    private func read(
        _ places: ArraySlice<LogPosition>, first: LogIndex, of group: GroupLog
    ) async throws(StoreError) -> [Entry] {
        let start = places[places.startIndex]
        let last = places[places.endIndex - 1]
        let from = Int(start.offset) & ~(LogBytes.blockSize - 1)
        let end = LogBytes.padded(Int(last.offset) + last.size)
        let path = path(LogFile.segment(start.segment))
        let buffer = reactor.pool.allocate(end - from)
        let count: Int
        do throws(IOError) {
            let file = try await reader(start.segment, path)
            count = try await file.read(into: buffer, 0..<end - from, at: from)
        } catch {
            throw StoreError(error)
        }
        defer { withExtendedLifetime(buffer) {} }
        let bytes = UnsafeRawBufferPointer(buffer.bytes(in: 0..<count))
        var entries: [Entry] = []
        entries.reserveCapacity(places.count)
        for (number, place) in places.enumerated() {
            let index = first + UInt64(number)
            do throws(LogBytes.Refusal) {
                let entry = try LogBytes.entry(
                    bytes, at: Int(place.offset) - from, seed: group.seed)
                guard entry.index == index else { throw .invalid }
                entries.append(entry)
            } catch {
                throw StoreError(
                    .corrupt,
                    "\(path) is damaged at byte \(place.offset): entry \(index) of group "
                        + "\(group.id) cannot be read")
            }
        }
        return entries
    }

    /// The file of a segment, open to be read.
    private func reader(_ segment: UInt32, _ path: String) async throws(IOError) -> File {
        if segment == ledger.current.sequence { return file }
        if let file = readers[segment] { return file }
        let file = try await File.open(path, [.read, .direct], on: reactor)
        keep(file, of: segment)
        return file
    }

    /// Keeps a file open to be read from, instead of that of the oldest if they are too many.
    func keep(_ file: File, of segment: UInt32) {
        if readers.count >= Limits.openSegments, let oldest = readers.keys.min() {
            // Closed when the last read from it is done.
            readers[oldest] = nil
        }
        readers[segment] = file
    }
}

extension GroupState {
    /// The part of the entries from `lo` to `hi` (exclusive) that a fetch has to read: none if
    /// `lo` is in memory. `isThere` is false if they are not all in the log.
    func missing(
        from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) -> (Range<LogIndex>, isThere: Bool, first: LogIndex, last: LogIndex) {
        guard lo >= first, hi <= last + 1, !isRemoved else { return (lo..<lo, false, first, last) }
        guard cache.entries(from: lo, to: lo + 1, maxSize: 0).isEmpty else {
            return (lo..<lo, true, first, last)
        }
        let end = cache.newest.first.map { min(hi, $0.index) } ?? hi
        var index = lo
        var size = 0
        while index < end {
            size += Int(position(of: index).length) + Raft.Limits.entryOverhead
            if size > maxSize, index > lo { break }
            index += 1
        }
        return (lo..<index, true, first, last)
    }

    /// Where the entries of `range` lie; nil if they are not all there.
    func positions(in range: Range<LogIndex>) -> [LogPosition]? {
        guard range.lowerBound >= first, range.upperBound <= last + 1 else { return nil }
        return Array(positions[Int(range.lowerBound - first)..<Int(range.upperBound - first)])
    }
}
