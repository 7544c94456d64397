import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor
import Synchronization

/// Bytes of a block replica that do not match the checksums that they were written with.
public struct DamagedRange: Hashable, Sendable {
    public var block: BlockID
    /// Of the block replica: whole units of 4 KiB, but for the block's end, within one cell of a
    /// stripe.
    public var range: Range<Int>
    /// User bytes of the block group, as this replica knows.
    public var groupLength: Int
    var fileOffset: Int
    var checksums: [UInt32]

    /// Whether `bytes` are those that were written here.
    func isMatched(by bytes: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count == range.count else { return false }
        do throws(UnitMismatch) {
            try CRC32C.verifyUnits(bytes, against: checksums)
            return true
        } catch { return false }
    }
}

/// What was done to heal a replica.
public struct HealSummary: Hashable, Sendable {
    public var verifiedBytes = 0
    /// Ranges that were written anew, and their bytes.
    public var healedRanges = 0
    public var healedBytes = 0
}

/// Reads all of a closed replica, and makes good what is damaged: of its cells from the bytes that
/// `source` makes of others, header and journal from what is known here.
///
/// Nothing is written that does not match the checksum that the replica's own index has of it. What the
/// index has lost cannot be healed.
///
/// Used by one task. Memory: three times `Limits.readBytes`, and a page of the index.
struct Healer {
    /// Makes the bytes of a damaged range. Throws why that cannot be done.
    typealias Source = @Sendable (DamagedRange) async throws(StoreError) -> Payload

    enum Limits {
        /// Bytes read, and written, at a time.
        static let readBytes = 1 << 20
        /// How often blocks are read again in which readers find damage meanwhile.
        static let passes = 16
        /// Ranges that could not be healed at which the rest is not tried.
        static let failures = 64
    }

    private let container: Container
    private let cache: ClosedCache
    private let source: Source
    private let buffer: AlignedBuffer
    /// Of a cell of a stripe, of which a range is a part.
    private let cellSize: Int
    /// Also of a run that failed.
    private(set) var summary = HealSummary()
    private var keptBytes = 0
    /// Ranges that could not be healed, and why the first of them, or the first for a reason that does
    /// not pass.
    private var failures = 0
    private var reason: StoreError?
    /// Blocks that were not verified because they were being deleted.
    private var passedOver: Set<UInt64> = []

    init(_ container: Container, cache: ClosedCache, source: @escaping Source) {
        self.container = container
        self.cache = cache
        self.source = source
        buffer = container.volume.reactor.pool.allocate(Limits.readBytes)
        switch container.header.replication {
        case .erasureCoded(let coding): cellSize = coding.cellSize
        case .replicated: cellSize = ReplicationConfig.blockSize
        }
    }

    /// Returns when all is whole, and is said to be. Throws why it is not; what could be healed is.
    mutating func run() async throws(StoreError) -> HealSummary {
        for pass in 0..<Limits.passes {
            let suspicion = container.state.withLock { $0.takeSuspicion() }
            do throws(StoreError) {
                // What is known to be bad goes first: it is what somebody waits for.
                if !suspicion.blocks.isEmpty { try await heal(suspicion.blocks) }
                if pass == 0 || suspicion.isOfAll { try await healAll() }
                if failures > 0 { throw failure }
                let unverified = passedOver
                passedOver = []
                if try await container.endDamage(cache, passedOver: unverified) {
                    return summary
                }
            } catch {
                // Whoever heals it next begins with the same.
                container.state.withLock { state in
                    for block in suspicion.blocks { state.suspicion.add(block) }
                    if suspicion.isOfAll { state.suspicion.add(nil) }
                }
                throw error
            }
        }
        throw StoreError(
            .overloaded, "\(container.name): damage is found in it again and again")
    }

    // MARK: What is read

    private mutating func healAll() async throws(StoreError) {
        try container.checkHealing()
        let file = try await cache.dataFile(of: container)
        if try await !container.hasSoundHeader(file, for: .repair) {
            try await container.mendHeader(in: file)
            summary.healedRanges += 1
            summary.healedBytes += ContainerHeader.size
        }
        let footer = try await container.storedFooter(file, for: .repair)
        let pages = try await container.storedTable(footer, file, for: .repair)
        for number in pages.indices {
            try container.checkHealing()
            for entry in try await container.storedPage(number, of: pages, file, for: .repair) {
                try await heal(entry, file)
            }
        }
    }

    private mutating func heal(_ blocks: Set<UInt64>) async throws(StoreError) {
        try container.checkHealing()
        let file = try await cache.dataFile(of: container)
        let footer = try await container.storedFooter(file, for: .repair)
        let pages = try await container.storedTable(footer, file, for: .repair)
        for localID in blocks.sorted() {
            guard let number = ContainerIndex.page(of: localID, in: pages) else { continue }
            let entries = try await container.storedPage(number, of: pages, file, for: .repair)
            for entry in entries where entry.localID == localID { try await heal(entry, file) }
        }
    }

    private mutating func heal(_ entry: BlockEntry, _ file: File) async throws(StoreError) {
        let unit = ReplicationConfig.checksumUnit
        for cell in entry.cells {
            var done = 0
            while done < cell.length {
                try container.checkHealing()
                if passesOver(entry.localID) { return }
                let count = min(Limits.readBytes, cell.length - done)
                let first = (cell.offset + done) / unit
                let checksums = entry.checksums[first..<first + (count + unit - 1) / unit]
                let bad = try await badUnits(
                    file, at: cell.fileOffset + done, count, checksums)
                for run in Self.runs(of: bad, cellUnits: cellSize / unit, first: first) {
                    let start = (run.units.lowerBound - first) * unit
                    let end = min((run.units.upperBound - first) * unit, count)
                    let lower = cell.offset + done + start
                    let damaged = DamagedRange(
                        block: BlockID(containerID: container.id, localID: entry.localID),
                        range: lower..<lower + end - start, groupLength: entry.groupLength,
                        fileOffset: cell.fileOffset + done + start,
                        checksums: Array(entry.checksums[run.units]))
                    try await heal(
                        damaged, file, bad: run.isReadable ? start..<end : nil)
                }
                summary.verifiedBytes += count
                done += count
            }
        }
    }

    /// A unit that is not what it should be.
    private struct BadUnit {
        /// Of the block replica.
        var number: Int
        /// The disk gave bytes, other ones.
        var isReadable: Bool
    }

    /// Units side by side within one cell of a stripe.
    private struct Run {
        var units: Range<Int>
        var isReadable: Bool
    }

    private static func runs(of bad: [BadUnit], cellUnits: Int, first: Int) -> [Run] {
        var runs: [Run] = []
        for unit in bad {
            if let last = runs.last, last.units.upperBound == unit.number,
                last.isReadable == unit.isReadable, unit.number % cellUnits != 0
            {
                runs[runs.count - 1].units = last.units.lowerBound..<unit.number + 1
            } else {
                runs.append(
                    Run(units: unit.number..<unit.number + 1, isReadable: unit.isReadable))
            }
        }
        return runs
    }

    /// Reads `count` bytes of the data file into `buffer`, and tells which units of them are bad. The
    /// indices of `checksums` are the units' numbers.
    private func badUnits(
        _ file: File, at offset: Int, _ count: Int, _ checksums: ArraySlice<UInt32>
    ) async throws(StoreError) -> [BadUnit] {
        let unit = ReplicationConfig.checksumUnit
        let unreadable = try await read(file, at: offset, count)
        let bytes = UnsafeRawBufferPointer(buffer.bytes(in: 0..<count))
        var bad: [BadUnit] = []
        for number in checksums.indices {
            let start = (number - checksums.startIndex) * unit
            let part = UnsafeRawBufferPointer(rebasing: bytes[start..<min(start + unit, count)])
            let isReadable = !unreadable.contains(start)
            if !isReadable || CRC32C.of(part) != checksums[number] {
                bad.append(BadUnit(number: number, isReadable: isReadable))
            }
        }
        return bad
    }

    /// Reads into `buffer`, in one piece or, where the disk gives an error, unit by unit. Returns where
    /// the units begin that it does not give.
    private func read(
        _ file: File, at offset: Int, _ count: Int
    ) async throws(StoreError) -> Set<Int> {
        let size = DataFile.aligned(count)
        if try await read(file, at: offset, 0..<size, needed: count) { return [] }
        let unit = ReplicationConfig.checksumUnit
        var unreadable: Set<Int> = []
        for start in stride(from: 0, to: size, by: unit) {
            let isRead = try await read(
                file, at: offset + start, start..<start + unit, needed: min(unit, count - start))
            if !isRead { unreadable.insert(start) }
        }
        return unreadable
    }

    /// False where the disk gives an error.
    private func read(
        _ file: File, at offset: Int, _ range: Range<Int>, needed: Int
    ) async throws(StoreError) -> Bool {
        let found: Int
        do throws(IOError) {
            found = try await file.read(into: buffer, range, at: offset, for: .repair)
        } catch {
            guard error.kind == .disk else { throw container.volume.refusal(for: error) }
            return false
        }
        guard found >= needed else {
            let text = "\(container.name): the data file ends at \(offset + found), within a cell"
            container.markDamaged(text)
            throw StoreError(.corrupt, text)
        }
        return true
    }

    // MARK: What is written

    /// - Parameter bad: where the bad bytes are in `buffer`; nil: they could not be read.
    private mutating func heal(
        _ damaged: DamagedRange, _ file: File, bad: Range<Int>?
    ) async throws(StoreError) {
        guard !passesOver(damaged.block.localID) else { return }
        let name = "\(container.name), block \(damaged.block), bytes \(damaged.range)"
        container.markDamaged(
            "\(name) do not match their checksums", block: damaged.block.localID, isTakenUp: true)
        do throws(StoreError) {
            let payload = try await source(damaged)
            guard payload.withBytes({ damaged.isMatched(by: $0) }) else {
                throw StoreError(
                    .corrupt,
                    "\(name): what the others make of it does not match its checksum either")
            }
            if let bad { await keep(damaged, bad) }
            guard try await container.mend(damaged, with: payload, in: file) else {
                notePassedOver(damaged.block.localID)
                return
            }
            summary.healedRanges += 1
            summary.healedBytes += damaged.range.count
        } catch {
            try container.checkHealing()
            // Deleted while it was made: nobody misses it.
            if passesOver(damaged.block.localID) { return }
            if reason.map({ $0.isPassing && !error.isPassing }) ?? true { reason = error }
            failures += 1
            if failures >= Limits.failures { throw failure }
        }
    }

    /// Why the replica is not whole. That it is damaged for good is not said where all that came in
    /// between passes by itself.
    private var failure: StoreError {
        let reason = reason ?? StoreError(.internal, "for no reason")
        return StoreError(
            reason.isPassing ? reason.code : .corrupt,
            "\(container.name): \(failures) ranges could not be healed: \(reason.message)")
    }

    /// Whether the block need not be verified, for it is deleted. If the deletion may fail yet it is
    /// remembered.
    private mutating func passesOver(_ localID: UInt64) -> Bool {
        guard container.isGone(localID) else { return false }
        notePassedOver(localID)
        return true
    }

    private mutating func notePassedOver(_ localID: UInt64) {
        if !container.isGoneForGood(localID) { passedOver.insert(localID) }
    }

    private mutating func keep(_ damaged: DamagedRange, _ bad: Range<Int>) async {
        guard keptBytes + bad.count <= KeptFile.Limits.bytesPerHeal else { return }
        keptBytes += bad.count
        await container.volume.keep(
            Array(UnsafeRawBufferPointer(buffer.bytes(in: bad))),
            DamageNote(
                block: damaged.block, replicaIndex: container.header.replicaIndex,
                range: damaged.range, fileOffset: damaged.fileOffset,
                at: Timestamp(milliseconds: 0), checksums: damaged.checksums))
    }
}

extension StoreError {
    /// Whether it passes by itself, and says nothing about what is stored: to be tried again.
    public var isPassing: Bool {
        switch code {
        case .cancelled, .overloaded, .deadlineExceeded: true
        default: false
        }
    }
}

/// What was healed on a volume since the store was opened.
struct HealCounts: Hashable, Sendable {
    var healed = 0
    var failed = 0
    var bytes = 0
}

extension ContainerStore {
    /// Verifies all of a closed replica, and makes good what is damaged of it; then it is reported as
    /// closed again, after a restart too. Bad bytes that are replaced are kept for a while below the
    /// volume's `damaged`.
    ///
    /// Throws `noSuchContainer`, `containerState` (not closed, or its journal was damaged before the
    /// last start), `corrupt` (the index is damaged, or others do not have the bytes), `io`,
    /// `cancelled`, and what passes by itself: `overloaded`, `deadlineExceeded`. What could be healed is
    /// healed all the same.
    /// - Parameter source: makes the bytes of a damaged range from other replicas. It is held against
    ///   the replica's own checksums, and only written if it matches.
    public func heal(
        _ id: ContainerID, replicaIndex: Int,
        from source: @escaping @Sendable (DamagedRange) async throws(StoreError) -> Payload
    ) async throws(StoreError) -> HealSummary {
        let container = try container(id, replicaIndex: replicaIndex)
        let volume = container.volume
        try container.beginHealing()
        defer { container.endHealing() }
        var healer = Healer(container, cache: cache, source: source)
        do throws(StoreError) {
            let summary = try await healer.run()
            volume.withState { $0.heals.healed += 1 }
            note(summary, container)
            let scrubber = scrubbers.first { $0.volume === volume }
            scrubber?.didHeal(container, wasDamaged: summary.healedBytes > 0)
            return summary
        } catch {
            note(healer.summary, container)
            // What passes says nothing about the replica.
            if error.isPassing { throw error }
            if volume.failure == nil, let outage = volume.outage {
                throw StoreError(.overloaded, "\(container.name) cannot be healed now: \(outage)")
            }
            volume.withState { $0.heals.failed += 1 }
            throw error
        }
    }

    private func note(_ summary: HealSummary, _ container: Container) {
        container.volume.withState { $0.heals.bytes += summary.healedBytes }
    }
}
