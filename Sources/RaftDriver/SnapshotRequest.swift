import Bytes
import Model
import Raft
import RaftLog
import Transport

/// A step of a snapshot's way to another member: the question where to go on, or a piece. Its
/// answer is the offset of the piece that is wanted next; the snapshot's size when all are there.
///
/// ```
/// version (1)  group (16, big-endian)  index (8)  term (8)  size (8)  checksum (4)
/// piece (1)  [offset (8)  checksum (4), its bytes as payload]      little-endian
/// ```
public struct SnapshotRequest: Sendable {
    static let version: UInt8 = 1

    /// Bounds of what is taken from a peer.
    public enum Limits {
        /// Bytes of a snapshot.
        public static let bytes: UInt64 = 1 << 50
    }

    public var header: SnapshotHeader
    /// nil to ask where to go on.
    public var piece: SnapshotPiece?

    public init(header: SnapshotHeader, piece: SnapshotPiece?) {
        self.header = header
        self.piece = piece
    }

    /// The message; the piece's bytes travel as payload.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = [Self.version]
        bytes.appendBigEndian(header.group.high)
        bytes.appendBigEndian(header.group.low)
        bytes.appendLittleEndian(header.index)
        bytes.appendLittleEndian(header.term)
        bytes.appendLittleEndian(UInt64(header.size))
        bytes.appendLittleEndian(header.checksum)
        bytes.append(piece == nil ? 0 : 1)
        if let piece {
            bytes.appendLittleEndian(UInt64(piece.offset))
            bytes.appendLittleEndian(piece.checksum)
        }
        return bytes
    }

    /// Throws `versionMismatch` with the number, or `badRequest`.
    public init(decoding bytes: [UInt8], payload: Payload?) throws(StoreError) {
        var reader = RaftByteReader(bytes)
        let found = try reader.byte()
        guard found == Self.version else {
            throw StoreError(
                .versionMismatch,
                "a snapshot of version \(found) came; this program speaks \(Self.version)")
        }
        let group = GroupID(high: try reader.bigEndian(), low: try reader.bigEndian())
        let index: LogIndex = try reader.number()
        let term: Term = try reader.number()
        let size: UInt64 = try reader.number()
        let checksum: UInt32 = try reader.number()
        guard size <= Limits.bytes, let size = Int(exactly: size) else {
            throw StoreError(
                .badRequest,
                "a snapshot of \(size) bytes is too large: at most \(Limits.bytes)")
        }
        guard index <= Raft.Limits.largestNumber, term <= Raft.Limits.largestNumber else {
            throw StoreError(
                .badRequest, "a snapshot of entry \(index) of term \(term) came: no group is there")
        }
        header = SnapshotHeader(
            group: group, index: index, term: term, size: size, checksum: checksum)
        guard try reader.byte() != 0 else { return }
        let offset: UInt64 = try reader.number()
        let pieceChecksum: UInt32 = try reader.number()
        guard let offset = Int(exactly: offset), offset <= size else {
            throw StoreError(
                .badRequest, "a piece came at byte \(offset) of a snapshot of \(size)")
        }
        guard let payload else {
            throw StoreError(.badRequest, "a piece of a snapshot came without its bytes")
        }
        piece = SnapshotPiece(offset: offset, payload: payload, checksum: pieceChecksum)
    }
}
