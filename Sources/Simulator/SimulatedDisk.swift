import Raft

/// What a crash leaves of the writes that were not synced.
enum Tear: CaseIterable, Sendable {
    /// Nothing: all were in the cache.
    case none
    /// Everything: the crash came just before the sync's end.
    case all
    /// The bytes up to some point.
    case prefix
    /// Any of the blocks.
    case blocks
}

/// The disk of one node: its log, of which a crash loses or tears what is not synced, and the
/// checkpoint of its application, a file that is replaced as a whole.
///
/// The core reads what was written, durable or not, as it would through a page cache, or only what
/// is durable, as it would without one. Writes go into blocks of `blockSize` bytes; a batch is found after a crash if all its blocks were
/// written, and recovery ends at the first that was not: what follows it is cut.
final class SimulatedDisk: RaftStorage {
    private static let blockSize = 512

    /// The log as its writer sees it.
    private(set) var written: LogImage
    /// The log as the medium has it for certain.
    private(set) var durable: LogImage
    /// The application's checkpoint as the medium has it.
    private(set) var checkpoint: Snapshot?
    /// A checkpoint on its way to the medium.
    var pendingCheckpoint: Snapshot?
    /// Batches that are not durable, and how many of them the sync under way covers.
    private(set) var unsynced: [LogWrite] = []
    private(set) var covered = 0
    /// Whether the core sees only what is durable.
    private let readsDurable: Bool
    /// Until when entries before this index must be fetched first: see `RaftStorage`.
    var coldBefore: LogIndex = 0
    /// Whether the core was refused entries since this was last set to false.
    var wasRefused = false
    /// Whether the core asked for a snapshot that none of the checkpoints is: a newer one, or one
    /// whose members include its receiver, who would refuse any other.
    var wantsCheckpoint = false
    /// Set where a restart begins: what the core is told of its configuration.
    var confState = ConfState()

    init(image: LogImage, checkpoint: Snapshot?, readsDurable: Bool = false) {
        self.readsDurable = readsDurable
        written = image
        durable = image
        self.checkpoint = checkpoint
    }

    // MARK: Writing

    /// Writes a batch; it is durable after the next sync that begins.
    func write(_ batch: LogWrite) {
        written.apply(batch)
        unsynced.append(batch)
    }

    /// Begins to sync all that is written; false if there is nothing or a sync is under way.
    func beginSync() -> Bool {
        guard covered == 0, !unsynced.isEmpty else { return false }
        covered = unsynced.count
        return true
    }

    /// Ends the sync: returns the batches that are durable now.
    func endSync() -> ArraySlice<LogWrite> {
        let done = unsynced[..<covered]
        for batch in done { durable.apply(batch) }
        unsynced.removeFirst(covered)
        covered = 0
        return done
    }

    /// Keeps a checkpoint for good.
    func keep(_ snapshot: Snapshot) {
        if snapshot.metadata.index > (checkpoint?.metadata.index ?? 0) { checkpoint = snapshot }
    }

    // MARK: Crashing

    /// Loses power: the log becomes what is durable and what `tear` leaves of the rest.
    ///
    /// `ignoringDamage` is a defect: recovery goes on behind the batch that was torn.
    func crash(_ tear: Tear, ignoringDamage: Bool, from generator: inout SeededGenerator) {
        var image = durable
        for (batch, isWhole) in zip(unsynced, survivors(tear, from: &generator)) {
            if isWhole { image.apply(batch) } else if !ignoringDamage { break }
        }
        written = image
        durable = image
        unsynced = []
        covered = 0
        coldBefore = 0
        if let pending = pendingCheckpoint, generator.chance(0.5) { keep(pending) }
        pendingCheckpoint = nil
    }

    /// Changes the hard state in recovery, before the node starts.
    func rewrite(hardState: HardState) {
        written.hardState = hardState
        durable.hardState = hardState
    }

    private func survivors(_ tear: Tear, from generator: inout SeededGenerator) -> [Bool] {
        switch tear {
        case .none: return unsynced.map { _ in false }
        case .all: return unsynced.map { _ in true }
        case .prefix, .blocks: break
        }
        let bytes = unsynced.reduce(0) { $0 + $1.byteCount }
        let blocks = bytes / Self.blockSize + 1
        let end = generator.int(in: 0...blocks)
        let share = generator.fraction()
        let isWritten = (0..<blocks).map { tear == .prefix ? $0 < end : generator.chance(share) }
        var offset = 0
        return unsynced.map { batch in
            let first = offset / Self.blockSize
            offset += batch.byteCount
            return isWritten[first...(offset - 1) / Self.blockSize].allSatisfy { $0 }
        }
    }

    // MARK: Reading, by the core

    private var readable: LogImage { readsDurable ? durable : written }

    func initialState() throws(StorageError) -> (HardState, ConfState) {
        (written.hardState, confState)
    }

    func entries(
        from lo: LogIndex, to hi: LogIndex, maxSize: Int
    ) throws(StorageError) -> [Entry] {
        if lo <= readable.base.index { throw .compacted }
        if hi > readable.lastIndex + 1 { throw .unavailable }
        if lo < coldBefore {
            wasRefused = true
            throw .temporarilyUnavailable
        }
        var size = 0
        var end = lo
        for entry in readable.entries(from: lo, to: hi) {
            size += entry.byteCount
            if size > maxSize, end > lo { break }
            end += 1
        }
        return Array(readable.entries(from: lo, to: end))
    }

    func term(of index: LogIndex) throws(StorageError) -> Term {
        if let term = readable.term(of: index) { return term }
        throw index < readable.base.index ? .compacted : .unavailable
    }

    var firstIndex: LogIndex { readable.firstIndex }
    var lastIndex: LogIndex { readable.lastIndex }

    func snapshot(index: LogIndex, to peer: PeerID) throws(StorageError) -> Snapshot {
        guard let checkpoint, checkpoint.metadata.index >= index,
            checkpoint.metadata.confState.all.contains(peer)
        else {
            wantsCheckpoint = true
            throw .snapshotTemporarilyUnavailable
        }
        return checkpoint
    }
}
