import Bytes
import DequeModule
import Model
import Raft
import Reactor
import Synchronization

/// Why no new segment could be begun.
enum SegmentFailure: Error {
    /// Nothing of the log was touched: it may be tried again.
    case none(StoreError)
    case unusable(StoreError)
}

/// Names of a log's files.
enum LogFile {
    static let segmentPrefix = "segment-"
    static let sparePrefix = "spare-"
    /// A segment that is being filled with zeros; of no use after a crash.
    static let unfinished = "making"

    static func segment(_ sequence: UInt32) -> String { named(segmentPrefix, UInt64(sequence)) }
    static func spare(_ number: UInt64) -> String { named(sparePrefix, number) }

    private static func named(_ prefix: String, _ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return prefix + String(repeating: "0", count: 16 - digits.count) + digits
    }

    static func number(_ name: String, prefix: String) -> UInt64? {
        guard name.hasPrefix(prefix), name.utf8.count == prefix.utf8.count + 16 else { return nil }
        return UInt64(name.dropFirst(prefix.count), radix: 16)
    }
}

extension SharedLog {
    func path(_ name: String) -> String { "\(directory)/\(name)" }

    /// Goes over to a new segment: makes one if none is spare.
    func startSegment() async throws(SegmentFailure) {
        if spares.isEmpty { try await makeSpareNow() }
        let spare = spares.removeFirst()
        var random = SystemRandomNumberGenerator()
        let sequence = ledger.current.sequence + 1
        let header = LogBytes.SegmentHeader(
            sequence: sequence, salt: random.next() | 1, firstBatch: nextBatch,
            size: options.segmentSize)
        do throws(IOError) {
            let next = try await Self.activate(
                path(LogFile.spare(spare)), header, in: directory, on: reactor)
            // Whoever still reads from the old one holds on to it.
            keep(file, of: ledger.current.sequence)
            file = next
        } catch {
            throw .unusable(unusable(error))
        }
        capacity = options.segmentSize
        end = LogBytes.blockSize
        sparelessAt = nil
        ledger.append(.init(sequence: sequence, salt: header.salt))
        counts.segmentsBegun += 1
    }

    private func makeSpareNow() async throws(SegmentFailure) {
        startMaking()
        if let making, case .failure(let error) = await making.result {
            let known = (error as? IOError).map { StoreError($0) }
            throw .none(
                known ?? StoreError(.io, "no segment of the log could be made: \(error)"))
        }
        precondition(!spares.isEmpty, "a segment that was made is spare")
    }

    /// Has a segment made in the background, unless one is being made.
    func startMaking() {
        guard making == nil else { return }
        let number = nextSpare
        nextSpare += 1
        making = Task(executorPreference: reactor) {
            try await self.make(number)
        }
    }

    private func make(_ number: UInt64) async throws {
        defer { making = nil }
        let unfinished = path(LogFile.unfinished)
        do throws(IOError) {
            try await Self.fillSegment(unfinished, size: options.segmentSize, on: reactor)
            try await reactor.rename(unfinished, to: path(LogFile.spare(number)))
            try await reactor.synchronizeDirectory(directory)
        } catch {
            // What there is of it would take space that is wanted; it may not even be there.
            _ = try? await reactor.remove(unfinished)
            throw error
        }
        counts.segmentsMade += 1
        spares.append(number)
    }

    /// Makes a file of `size` zeros, with its space on disk.
    static func fillSegment(
        _ path: String, size: Int, on reactor: Reactor
    ) async throws(IOError) {
        let file = try await File.open(
            path, [.read, .write, .create, .truncate, .direct], on: reactor)
        try await file.allocate(0..<size)
        let zeros = reactor.pool.allocate(min(1 << 20, size))
        zeros.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        var at = 0
        while at < size {
            let count = min(zeros.capacity, size - at)
            try await file.write(Payload(zeros, 0..<count), at: at)
            at += count
        }
        try await file.synchronize()
        try await file.close()
    }

    /// Gives a spare its header and then its name, each made durable before the next.
    static func activate(
        _ spare: String, _ header: LogBytes.SegmentHeader, in directory: String,
        on reactor: Reactor
    ) async throws(IOError) -> File {
        let path = "\(directory)/\(LogFile.segment(header.sequence))"
        let file = try await File.open(spare, [.read, .write, .direct], on: reactor)
        let block = reactor.pool.allocate(LogBytes.blockSize)
        header.write(into: block.bytes)
        try await file.write(Payload(block, 0..<LogBytes.blockSize), at: 0)
        try await file.synchronize()
        try await file.close()
        try await reactor.rename(spare, to: path)
        try await reactor.synchronizeDirectory(directory)
        return try await File.open(path, [.read, .write, .direct], on: reactor)
    }

    // MARK: Work in the background

    /// The segments that the log may take before the oldest is emptied.
    var allowedSegments: Int {
        let needed = (2 * ledger.liveBytes + options.segmentSize - 1) / options.segmentSize
        return needed + options.slackSegments
    }

    private var isOverfull: Bool {
        moveBudget > 0 && ledger.segments.count > allowedSegments
    }
    private var hasFree: Bool { ledger.segments.count > 1 && ledger.oldest.isFree }
    private var wantsSpare: Bool {
        spares.isEmpty && making == nil && end > capacity / 2
            && end > (sparelessAt.map { $0 + capacity / 8 } ?? 0)
    }

    /// Starts what is to be done in the background, unless it runs.
    func maintainIfNeeded() {
        guard maintenance == nil, failure == nil, hasFree || wantsSpare || isOverfull else {
            return
        }
        maintenance = Task(executorPreference: reactor) { await self.maintain() }
    }

    private func maintain() async {
        defer { maintenance = nil }
        while failure == nil, !queue.withLock({ $0.isClosing }) {
            do {
                if hasFree {
                    try await freeOldest()
                } else if wantsSpare {
                    let at = end
                    startMaking()
                    if let making, case .failure = await making.result {
                        // Told to whoever needs it, if it fails then too.
                        sparelessAt = at
                    }
                } else if isOverfull {
                    try await emptyOldest()
                } else {
                    return
                }
            } catch let error as IOError {
                let failure = unusable(error)
                self.failure = failure
                queue.withLock { $0.refusal = failure }
                return
            } catch {
                // No room to move anything now, or the log is closed or broken: the next batch
                // asks again.
                return
            }
        }
    }

    /// Frees the oldest segment, in which nothing is needed, once a durable batch says so.
    private func freeOldest() async throws {
        if durableOldest <= ledger.oldest.sequence {
            try await submit(.note, of: nil)
            guard durableOldest > ledger.oldest.sequence else { return }
        }
        let segment = ledger.removeOldest()
        readers[segment.sequence] = nil
        let old = path(LogFile.segment(segment.sequence))
        let isReusable = try await reactor.status(old)?.size == options.segmentSize
        if isReusable, spares.count < options.spareSegments {
            let number = nextSpare
            nextSpare += 1
            try await reactor.rename(old, to: path(LogFile.spare(number)))
            // Before it is written to: a header of its next life must not be found under the
            // name of this one.
            try await reactor.synchronizeDirectory(directory)
            spares.append(number)
        } else {
            try await reactor.remove(old)
            try await reactor.synchronizeDirectory(directory)
        }
        counts.segmentsFreed += 1
    }

    /// Writes again what is needed of the oldest segment, so that it can be freed.
    private func emptyOldest() async throws {
        let segment = ledger.oldest.sequence
        let groups = roster.withLock { Array($0.groups.values) }
        let limit = min(Limits.moveBytes, options.batchSize - LogBytes.blockSize)
        for group in groups {
            var next: LogIndex = 0
            while let range = group.state.withLock({
                $0.run(in: segment, from: next, limit: limit)
            }) {
                next = range.upperBound
                let entries = try await read(group, range, isMoving: true)
                guard !entries.isEmpty else { continue }
                try await submit(.move(entries), of: group)
            }
            try await submit(.anchor(.move(from: segment)), of: group)
        }
    }
}

extension GroupState {
    /// Consecutive entries in `segment`, the first that are not before `from`, as many as are
    /// moved at once (at most `limit` bytes, or one); nil if there are none.
    func run(in segment: UInt32, from: LogIndex, limit: Int) -> Range<LogIndex>? {
        guard shares.first(where: { $0.segment == segment }) != nil else { return nil }
        var at = Int(max(from, first) - first)
        while at < positions.count, positions[at].segment != segment { at += 1 }
        guard at < positions.count else { return nil }
        let start = at
        var bytes = 0
        while at < positions.count, positions[at].segment == segment {
            bytes += positions[at].size
            if bytes > limit, at > start { break }
            at += 1
        }
        return first + UInt64(start)..<first + UInt64(at)
    }
}
