import Bytes
import DequeModule
import Model
import Raft
import Reactor
import Synchronization

/// A spare that is to become the segment that is written to, and what is done of that.
struct Activation {
    var spare: UInt64
    var header: LogBytes.SegmentHeader
    var file: File?
    /// The header is durable.
    var isWritten = false
    /// It has its name, which need not be durable. From now on nothing may be written to the
    /// segment before.
    var isRenamed = false

    /// Gives a spare its header and then its name, each made durable before the next. If it
    /// throws it goes on with what is left when it is called again.
    mutating func advance(
        _ spare: String, in directory: String, on reactor: Reactor
    ) async throws(IOError) {
        let opened: File
        if let file {
            opened = file
        } else {
            opened = try await File.open(spare, [.read, .write, .direct], on: reactor)
            file = opened
        }
        if !isWritten {
            let block = reactor.pool.allocate(LogBytes.blockSize)
            header.write(into: block.bytes)
            try await opened.write(Payload(block, 0..<LogBytes.blockSize), at: 0)
            try await opened.synchronize()
            isWritten = true
        }
        if !isRenamed {
            try await reactor.rename(
                spare, to: "\(directory)/\(LogFile.segment(header.sequence))")
            isRenamed = true
        }
        try await reactor.synchronizeDirectory(directory)
    }
}

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

    /// Goes over to a new segment: makes one if none is spare. Where descriptors or memory are
    /// wanting it fails with `overloaded`, and goes on with what it has done when called again.
    func startSegment() async throws(SegmentFailure) {
        if activation == nil {
            if spares.isEmpty { try await makeSpareNow() }
            activation = Activation(spare: spares.removeFirst(), header: newHeader())
        }
        // Others may have been written to the old segment since, while this had to wait.
        if activation?.isRenamed == false, activation?.header.firstBatch != nextBatch {
            activation?.header = newHeader()
            activation?.isWritten = false
        }
        do throws(IOError) {
            try await activate()
        } catch {
            if error.isShortage { throw .none(StoreError(error)) }
            throw .unusable(unusable(error))
        }
        guard let begun = activation, let next = begun.file else {
            preconditionFailure("an active segment is open")
        }
        activation = nil
        // Whoever still reads from the old one holds on to it.
        keep(file, of: ledger.current.sequence)
        file = next
        capacity = options.segmentSize
        end = LogBytes.blockSize
        sparelessAt = nil
        ledger.append(.init(sequence: begun.header.sequence, salt: begun.header.salt))
        counts.segmentsBegun += 1
    }

    private func newHeader() -> LogBytes.SegmentHeader {
        LogBytes.SegmentHeader(
            sequence: ledger.current.sequence + 1, salt: reactor.randomNumber() | 1,
            firstBatch: nextBatch, size: options.segmentSize)
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

    private func activate() async throws(IOError) {
        guard var work = activation else { return }
        defer { activation = work }
        try await work.advance(path(LogFile.spare(work.spare)), in: directory, on: reactor)
    }

    // MARK: Work in the background

    /// Does `work`, again and again while descriptors or memory are wanting, until the log closes.
    private func patiently<R>(
        _ work: () async throws(IOError) -> R
    ) async throws(IOError) -> R {
        while true {
            do throws(IOError) {
                return try await work()
            } catch {
                guard error.isShortage, !queue.withLock({ $0.isClosing }) else { throw error }
            }
            try? await reactor.sleep(for: Limits.shortageRetry)
        }
    }

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
                // At the end of the log: the next start finds what is left.
                if error.isShortage { return }
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
        let isReusable = try await patiently { () async throws(IOError) in
            try await reactor.status(old)?.size == options.segmentSize
        }
        if isReusable, spares.count < options.spareSegments {
            let number = nextSpare
            nextSpare += 1
            try await patiently { () async throws(IOError) in
                try await reactor.rename(old, to: path(LogFile.spare(number)))
            }
            // Before it is written to: a header of its next life must not be found under the
            // name of this one.
            try await synchronizeNames()
            spares.append(number)
        } else {
            try await patiently { () async throws(IOError) in try await reactor.remove(old) }
            try await synchronizeNames()
        }
        counts.segmentsFreed += 1
    }

    private func synchronizeNames() async throws(IOError) {
        try await patiently { () async throws(IOError) in
            try await reactor.synchronizeDirectory(directory)
        }
    }

    /// Writes again what is needed of the oldest segment, so that it can be freed.
    private func emptyOldest() async throws {
        let segment = ledger.oldest.sequence
        let groups = roster.withLock { $0.groups.values.sorted { $0.id < $1.id } }
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
