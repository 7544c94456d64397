import Bytes
import Checksum
import Model
import Reactor

/// Puts a snapshot together from pieces, and goes on where it was after a lost connection or a
/// crash.
///
/// Pieces are taken in order; `nextOffset` says which is wanted. One call at a time. Isolated to
/// its reactor. The state machine takes the file that `finish` names; only then may the log be
/// told of the snapshot (`GroupLog.append`).
public actor SnapshotReceiver {
    /// What is being received.
    public nonisolated let header: SnapshotHeader
    /// Where to.
    public nonisolated let directory: String
    /// Where the receiver is isolated, and its file is.
    public nonisolated let reactor: Reactor
    /// The reactor.
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        reactor.asUnownedSerialExecutor()
    }

    private let file: File
    private var label: SnapshotFile.Label
    private var received: Int
    private var checksum: UInt32
    /// Bytes from the start that were read back from the file after a sync, and their CRC32C. They
    /// are read as they come, so that the last call does not take as long as all others together.
    private var verified: Int
    private var verifiedChecksum: UInt32
    private var isBusy = false
    /// Why it cannot go on.
    private var failure: StoreError?

    private init(
        _ label: SnapshotFile.Label, _ file: File, in directory: String, on reactor: Reactor
    ) {
        header = label.header
        self.label = label
        self.file = file
        self.directory = directory
        self.reactor = reactor
        received = label.durable
        checksum = label.durableChecksum
        // Who goes on with a file has read what it has.
        verified = label.durable
        verifiedChecksum = label.durableChecksum
    }

    /// Where the next piece begins, in bytes; `header.size` when all are there.
    public var nextOffset: Int { received }

    /// Begins to receive, or goes on if this very snapshot was begun in `directory` before. An
    /// unfinished older one of the group is replaced.
    ///
    /// - Throws: `conflict` if a newer one is being received, `noSpace` if this one does not fit
    ///   on the disk, `io`.
    public static func begin(
        _ header: SnapshotHeader, in directory: String, on reactor: Reactor
    ) async throws(StoreError) -> SnapshotReceiver {
        let path = SnapshotFile.partial(header.group, in: directory)
        if let found = try await unfinished(header.group, in: directory, on: reactor) {
            if found.header.isNewer(than: header) {
                throw StoreError(
                    .conflict,
                    "a snapshot of group \(header.group) at \(found.header.index) is being "
                        + "received; one at \(header.index) is older")
            }
            if found.header == header {
                if let receiver = try await resume(found, path, in: directory, on: reactor) {
                    return receiver
                }
            }
        }
        do throws(IOError) {
            let file = try await File.open(
                path, [.read, .write, .create, .truncate], on: reactor)
            try await file.allocate(0..<LogBytes.padded(header.size) + SnapshotFile.labelBytes)
            let receiver = SnapshotReceiver(
                SnapshotFile.Label(header: header), file, in: directory, on: reactor)
            try await receiver.writeLabel()
            try await reactor.synchronizeDirectory(directory)
            return receiver
        } catch {
            throw StoreError(error)
        }
    }

    /// What is being received of a group in `directory`; nil if nothing is that could be gone on
    /// with.
    public static func pending(
        _ group: GroupID, in directory: String, on reactor: Reactor
    ) async throws(StoreError) -> (header: SnapshotHeader, durable: Int)? {
        try await unfinished(group, in: directory, on: reactor).map { ($0.header, $0.durable) }
    }

    private static func unfinished(
        _ group: GroupID, in directory: String, on reactor: Reactor
    ) async throws(StoreError) -> SnapshotFile.Label? {
        let path = SnapshotFile.partial(group, in: directory)
        do throws(IOError) {
            guard let size = try await reactor.status(path)?.size,
                size >= SnapshotFile.labelBytes, size % LogBytes.blockSize == 0
            else { return nil }
            let file = try await File.open(path, [.read], on: reactor)
            let buffer = reactor.pool.allocate(SnapshotFile.labelBytes)
            let count = try await file.read(
                into: buffer, 0..<SnapshotFile.labelBytes, at: size - SnapshotFile.labelBytes)
            try await file.close()
            guard count == SnapshotFile.labelBytes else { return nil }
            defer { withExtendedLifetime(buffer) {} }
            let bytes = UnsafeRawBufferPointer(buffer.bytes(in: 0..<count))
            let labels = [0, LogBytes.blockSize].compactMap { start in
                SnapshotFile.Label(
                    reading: UnsafeRawBufferPointer(
                        rebasing: bytes[start..<start + LogBytes.blockSize]))
            }
            let latest = labels.max { $0.count < $1.count }
            guard let latest, latest.header.group == group,
                LogBytes.padded(latest.header.size) + SnapshotFile.labelBytes == size
            else { return nil }
            return latest
        } catch {
            throw StoreError(error)
        }
    }

    /// nil if what should be durable is not what it was: then it begins anew.
    private static func resume(
        _ label: SnapshotFile.Label, _ path: String, in directory: String, on reactor: Reactor
    ) async throws(StoreError) -> SnapshotReceiver? {
        do throws(IOError) {
            let file = try await File.open(path, [.read, .write], on: reactor)
            let found = try await SnapshotFile.checksum(of: file, 0..<label.durable)
            guard found == label.durableChecksum else {
                try await file.close()
                return nil
            }
            return SnapshotReceiver(label, file, in: directory, on: reactor)
        } catch {
            throw StoreError(error)
        }
    }

    /// Takes the next piece. One that was taken before is ignored.
    ///
    /// - Throws: `badRequest` for a piece that is not the next one (the message and `nextOffset`
    ///   say which is), goes beyond the snapshot, is too large, or does not match its checksum;
    ///   nothing is lost then. After `io` or `noSpace` it must be begun again, and goes on from
    ///   what is durable.
    public func write(_ piece: SnapshotPiece) async throws(StoreError) {
        if let failure { throw failure }
        precondition(!isBusy, "pieces are taken one after the other")
        isBusy = true
        defer { isBusy = false }
        guard piece.offset >= 0, piece.offset <= header.size,
            piece.payload.count <= header.size - piece.offset, piece.payload.count > 0,
            piece.payload.count <= SnapshotFile.Limits.pieceBytes
        else {
            throw StoreError(
                .badRequest,
                "a piece of \(piece.payload.count) bytes at \(piece.offset) of a snapshot of "
                    + "\(header.size): a piece has 1 to \(SnapshotFile.Limits.pieceBytes)")
        }
        let end = piece.offset + piece.payload.count
        if end <= received { return }
        guard piece.offset == received else {
            throw StoreError(
                .badRequest, "a piece at \(piece.offset), the next one begins at \(received)")
        }
        let before = checksum
        let (found, whole) = piece.payload.withBytes { bytes in
            (CRC32C.of(bytes), CRC32C.update(before, bytes))
        }
        guard found == piece.checksum else {
            throw StoreError(
                .badRequest, "the piece at \(piece.offset) does not match its checksum")
        }
        do throws(IOError) {
            try await file.write(piece.payload, at: piece.offset)
            received = end
            checksum = whole
            if received - label.durable >= SnapshotFile.Limits.unsyncedBytes {
                try await note()
            }
        } catch {
            throw fail(error)
        }
    }

    /// Makes what was received durable and notes how much it is.
    private func note() async throws(IOError) {
        try await file.synchronize()
        try await verify()
        label.durable = received
        label.durableChecksum = checksum
        label.count += 1
        try await writeLabel()
    }

    /// Reads back what was received since the last time.
    private func verify() async throws(IOError) {
        verifiedChecksum = try await SnapshotFile.checksum(
            of: file, verified..<received, after: verifiedChecksum)
        verified = received
    }

    private func writeLabel() async throws(IOError) {
        let block = reactor.pool.allocate(LogBytes.blockSize)
        label.write(into: block.bytes)
        try await file.write(Payload(block, 0..<LogBytes.blockSize), at: label.place)
        try await file.synchronize()
    }

    private func fail(_ error: IOError) -> StoreError {
        let error = StoreError(error)
        failure = error
        return error
    }

    /// Makes what was received so far durable: for a connection that is given up for a while.
    public func pause() async throws(StoreError) {
        if let failure { throw failure }
        precondition(!isBusy, "a receiver is not paused while it takes a piece")
        isBusy = true
        defer { isBusy = false }
        do throws(IOError) {
            if received > label.durable { try await note() }
        } catch {
            throw fail(error)
        }
    }

    /// Reads the rest of the file back, checks the whole, and gives it its name: the path of the
    /// snapshot, durable when this returns. The receiver is done then.
    ///
    /// - Throws: `badRequest` if pieces are missing, `corrupt` if the bytes are not those of the
    ///   header: then all are thrown away, and it must be begun again from the start.
    public func finish() async throws(StoreError) -> String {
        if let failure { throw failure }
        precondition(!isBusy, "a snapshot is not finished while it takes a piece")
        guard received == header.size else {
            throw StoreError(
                .badRequest, "\(received) of \(header.size) bytes of the snapshot are there")
        }
        isBusy = true
        defer { isBusy = false }
        let partial = SnapshotFile.partial(header.group, in: directory)
        do throws(IOError) {
            try await file.synchronize()
            try await verify()
            let found = verifiedChecksum
            guard found == header.checksum else {
                try await file.close()
                try await reactor.remove(partial)
                let error = StoreError(
                    .corrupt,
                    "the snapshot of group \(header.group) at \(header.index) that was received "
                        + "has CRC32C \(found) instead of \(header.checksum)")
                failure = error
                throw IOError(code: 0, operation: "checksum", path: partial)
            }
            try await file.truncate(to: header.size)
            try await file.synchronize()
            try await file.close()
            let path = SnapshotFile.path(header, in: directory)
            try await reactor.rename(partial, to: path)
            try await reactor.synchronizeDirectory(directory)
            failure = StoreError(.notReady, "the snapshot has been received")
            return path
        } catch {
            throw failure ?? fail(error)
        }
    }
}

extension SnapshotFile {
    /// CRC32C of a part of a file, read in pieces; of what `before` is the CRC32C of and that part,
    /// if it is given.
    static func checksum(
        of file: File, _ range: Range<Int>, after before: UInt32 = 0,
        rest: (_ bytes: Int, _ took: Duration) -> Duration = { _, _ in .zero }
    ) async throws(IOError) -> UInt32 {
        guard !range.isEmpty else { return before }
        let buffer = file.reactor.pool.allocate(min(range.count, Limits.pieceBytes))
        var checksum = before
        var at = range.lowerBound
        while at < range.upperBound {
            let began = file.reactor.now()
            let wanted = min(buffer.capacity, range.upperBound - at)
            let count = try await file.read(into: buffer, 0..<wanted, at: at)
            guard count == wanted else {
                throw IOError(code: 5, operation: "read to the end of", path: file.path)
            }
            checksum = CRC32C.update(
                checksum, UnsafeRawBufferPointer(buffer.bytes(in: 0..<count)))
            at += count
            let pause = rest(count, began.duration(to: file.reactor.now()))
            if pause > .zero { try? await file.reactor.sleep(for: pause) }
        }
        return checksum
    }
}
