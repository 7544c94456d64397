import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization

/// The journal file of one container as it is written. Knows files and bytes; what they say is
/// `ContainerState`'s, and when they are written the `Committer`'s.
///
/// One of a round, `cut` and `replace` at a time, which the container's state sees to
/// (`isCommitting`, `isJournalHeld`). Functions may be called from any executor.
final class JournalWriter: Sendable {
    private struct State {
        /// Open from the first write to `letGo`.
        var file: File?
        /// Why the present round failed for this container.
        var failure: StoreError?
        /// A new journal was about to get its name, and it is not known whether it has it for good.
        var isUnsettled = false
    }

    private let header: ContainerHeader
    private let volume: Volume
    private let state = Mutex(State())

    init(_ header: ContainerHeader, on volume: Volume) {
        self.header = header
        self.volume = volume
    }

    private var path: String { volume.journalPath(header.containerID) }

    // MARK: The file

    /// The file; that of a closed container is opened when something is to be written.
    func open() async throws(IOError) -> File {
        if let file = state.withLock({ $0.file }) { return file }
        let file = try await File.open(
            path, [.read, .write, .direct], on: volume.reactor, disk: volume.disk)
        state.withLock { $0.file = file }
        return file
    }

    /// The file, if it is open: to be closed by the caller.
    func take() -> File? {
        state.withLock { state in
            defer { state.file = nil }
            return state.file
        }
    }

    /// Closes the file when nobody uses it any more.
    func letGo() { _ = take() }

    var isOpen: Bool { state.withLock { $0.file != nil } }

    // MARK: Rounds

    func beginRound() { state.withLock { $0.failure = nil } }

    /// Why the present round failed, if it did.
    var failure: StoreError? { state.withLock { $0.failure } }

    /// Does a part of the present round, unless another part has failed, and notes if this one does.
    func inRound(_ body: () async throws(IOError) -> Void) async {
        guard failure == nil else { return }
        do throws(IOError) { try await patiently(body) } catch {
            volume.note(error)
            let failure = volume.refusal(for: error)
            state.withLock { $0.failure = failure }
        }
    }

    /// Writes records, and zeros over `ahead`. Returns whether they are there.
    /// - Parameter isDurable: the records are on stable media when it returns.
    func write(
        _ records: JournalTail.Write, ahead: Range<Int>?, isDurable: Bool
    ) async -> Bool {
        await inRound { () async throws(IOError) in
            let file = try await open()
            try await file.write(
                Payload(copying: records.bytes, pool: volume.reactor.pool), at: records.offset,
                isDurable: isDurable)
            if let ahead { try await writeZeros(ahead, to: file) }
        }
        return failure == nil
    }

    func synchronize() async {
        await inRound { () async throws(IOError) in try await open().synchronize() }
    }

    /// Repeats what fails for want of descriptors, memory or a place in the disk's queue, for a
    /// while, and what a suspended disk refuses, until that answers or is given up: what a round
    /// writes is the same each time, and lies at the same place. A sync may be repeated as well: all
    /// files are open with `O_DIRECT`, so the kernel holds nothing that a failed sync would have
    /// given up; the next one has as much to do. Errors of the disk itself are never repeated.
    private func patiently(
        _ body: () async throws(IOError) -> Void
    ) async throws(IOError) {
        let deadline = volume.reactor.now().advanced(by: volume.options.roundPatience)
        while true {
            do throws(IOError) { return try await body() } catch {
                let mayPass =
                    error.kind == .resource || error.kind == .overload
                    ? volume.reactor.now() < deadline : error.kind == .suspended
                guard mayPass, volume.failure == nil else { throw error }
                do throws(CancellationError) {
                    try await volume.reactor.sleep(for: ContainerStore.Limits.roundPause)
                } catch { await Task.yield() }
            }
        }
    }

    private func writeZeros(_ range: Range<Int>, to file: File) async throws(IOError) {
        let buffer = volume.reactor.pool.allocate(range.count)
        buffer.bytes(in: 0..<range.count).initializeMemory(as: UInt8.self, repeating: 0)
        try await file.write(Payload(buffer, 0..<range.count), at: range.lowerBound)
    }

    // MARK: Outside of rounds

    /// Removes what a write left behind `tail`'s end that was not acknowledged, durably, so that it
    /// can never be taken for records.
    func cut(to tail: JournalTail) async throws(IOError) {
        let wasOpen = isOpen
        let file = try await open()
        defer { if !wasOpen { letGo() } }
        if let last = tail.lastBlock {
            try await file.write(
                Payload(copying: last.bytes, pool: volume.reactor.pool), at: last.offset)
        }
        try await file.truncate(to: DataFile.aligned(tail.end))
        try await file.synchronize()
    }

    /// Writes a new journal of `records`, durably, in place of the old one if there is one. Returns
    /// its tail, and how many bytes it takes with the zeros ahead.
    ///
    /// Each record vouches for those before it: the file gets its name when it is durable. An error
    /// leaves the old journal as it was, but for `isUnsettled`.
    /// - Parameter isToGrow: it is to take appends, and gets a whole segment of zeros ahead. A closed
    ///   container's journal grows by deletions only, and gets one block.
    func replace(
        by records: [JournalRecord], isToGrow: Bool
    ) async throws(IOError) -> (tail: JournalTail, size: Int) {
        let temporary = path + ".new"
        let reactor = volume.reactor
        var tail = JournalTail(Journal(header))
        var bytes = header.encoded(for: .journal)
        for record in records {
            let write = tail.append([record])
            tail.synced()
            bytes.removeLast(bytes.count - write.offset)
            bytes += write.bytes
        }
        let size =
            bytes.count + (isToGrow ? volume.options.journalSegmentBytes : DataFile.alignment)
        let file = try await File.open(
            temporary, [.read, .write, .create, .truncate, .direct], on: reactor, disk: volume.disk)
        try await file.write(Payload(copying: bytes, pool: reactor.pool), at: 0)
        try await writeZeros(bytes.count..<size, to: file)
        try await file.synchronize()
        try await file.close()
        // Whatever is written from now on goes into the new file.
        letGo()
        state.withLock { $0.isUnsettled = true }
        try await reactor.rename(temporary, to: path, disk: volume.disk)
        try await settle()
        return (tail, size)
    }

    /// Whether a replacement failed in such a way that, after a power cut, the old journal or the new
    /// one may be there. Nothing may be written before `settle`: it might go with the one that is lost.
    var isUnsettled: Bool { state.withLock { $0.isUnsettled } }

    /// Makes the file that has the journal's name now, the old one or a new one, the one that has it
    /// for good.
    func settle() async throws(IOError) {
        guard isUnsettled else { return }
        try await volume.reactor.synchronizeDirectory(volume.containersPath, disk: volume.disk)
        state.withLock { $0.isUnsettled = false }
    }
}
