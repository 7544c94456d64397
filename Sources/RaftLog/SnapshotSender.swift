import Bytes
import Checksum
import Model
import Raft
import Reactor

/// Reads a snapshot's file in pieces, for as many receivers as want it.
///
/// The file must not change meanwhile; the whole checksum, taken when it is opened, would tell.
public final class SnapshotSender: Sendable {
    /// What receivers need to know before the first piece.
    public let header: SnapshotHeader
    private let file: File

    private init(_ header: SnapshotHeader, _ file: File) {
        self.header = header
        self.file = file
    }

    /// Opens the file at `path`, a snapshot of `group` as of entry `index` of `term`, and reads
    /// it once for its checksum.
    ///
    /// - Parameter rest: how long to rest after so many bytes were read, which took so long.
    public static func open(
        _ path: String, group: GroupID, index: LogIndex, term: Term, on reactor: Reactor,
        rest: @Sendable (_ bytes: Int, _ took: Duration) -> Duration = { _, _ in .zero }
    ) async throws(StoreError) -> SnapshotSender {
        do throws(IOError) {
            let file = try await File.open(path, [.read], on: reactor)
            let size = try await file.size()
            let checksum = try await SnapshotFile.checksum(of: file, 0..<size, rest: rest)
            return SnapshotSender(
                SnapshotHeader(
                    group: group, index: index, term: term, size: size, checksum: checksum), file)
        } catch {
            throw StoreError(error)
        }
    }

    /// The piece at `offset`: up to `size` bytes, fewer only at the end; nil behind the end.
    ///
    /// Precondition: 0 < `size` ≤ `SnapshotFile.Limits.pieceBytes`.
    public func piece(
        at offset: Int, size: Int = SnapshotFile.Limits.pieceBytes
    ) async throws(StoreError) -> SnapshotPiece? {
        precondition(
            size > 0 && size <= SnapshotFile.Limits.pieceBytes && offset >= 0,
            "a piece has 1 byte to 1 MiB")
        guard offset < header.size else { return nil }
        let wanted = min(size, header.size - offset)
        let buffer = file.reactor.pool.allocate(wanted)
        do throws(IOError) {
            let count = try await file.read(into: buffer, 0..<wanted, at: offset)
            guard count == wanted else {
                throw IOError(code: 5, operation: "read to the end of", path: file.path)
            }
        } catch {
            throw StoreError(error)
        }
        let payload = Payload(buffer, 0..<wanted)
        return SnapshotPiece(
            offset: offset, payload: payload, checksum: payload.withBytes { CRC32C.of($0) })
    }

    /// Closes the file.
    public func close() async throws(StoreError) {
        do throws(IOError) {
            try await file.close()
        } catch {
            throw StoreError(error)
        }
    }
}
