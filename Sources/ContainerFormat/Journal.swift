import Checksum

/// The bytes of a container's journal: a header block, then records one after the other, then
/// zeros.
///
/// A record is: length of its body (4), CRC32C (4), distance back to what is known to be durable
/// (4), body. The checksum covers the checksum of the header, the position of the record in the
/// file, and all of the record but itself; a record of another journal or another place is
/// therefore no record.
///
/// **Torn or damaged.** A record that does not check is either the rest of a write that a crash
/// cut short, and was never acknowledged, or damage. Each record tells up to which position the
/// journal had been synced when it was written. If a valid record after the bad place says that
/// the bad place had been synced, it is damage, and nothing is cut.
public struct Journal: Sendable {
    public enum Limits {
        /// The longest body: a deleted block of as many extents as it can have cells.
        public static let body = 2 << 20
    }

    static let frame = 12

    public let header: ContainerHeader
    /// Of the file; what is added to an older one is in its version.
    public let version: UInt32
    /// Binds records to this journal.
    let seed: UInt32

    /// - Parameter version: one of `ContainerHeader.versions`.
    public init(_ header: ContainerHeader, version: UInt32 = ContainerHeader.version) {
        self.header = header
        self.version = version
        let bytes = header.encoded(for: .journal, version: version)
        seed =
            bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 16, as: UInt32.self) }
            .littleEndian
    }

    /// Where the first record lies.
    public static let start = ContainerHeader.size

    /// The bytes of `record` when it lies at `position` of the file.
    /// - Parameter syncedTo: the journal is known to be durable up to here.
    ///
    /// Precondition: `syncedTo` ≤ `position`.
    public func encode(_ record: JournalRecord, at position: Int, syncedTo: Int) -> [UInt8] {
        encode(body: record.body(version: version), at: position, syncedTo: syncedTo)
    }

    func encode(body: [UInt8], at position: Int, syncedTo: Int) -> [UInt8] {
        precondition(
            syncedTo <= position && syncedTo >= 0, "a record lies after what is durable")
        precondition(body.count <= Limits.body, "a journal record of \(body.count) bytes")
        let back = UInt32(min(position - syncedTo, Int(UInt32.max)))
        var writer = ByteWriter()
        writer.append32(body.count)
        writer.append(
            body.withUnsafeBytes { checksum(position: position, back: back, body: $0) })
        writer.append(back)
        writer.append(body)
        return writer.bytes
    }

    /// What a journal file holds.
    public struct Contents: Sendable {
        public var header: ContainerHeader
        /// Of the file.
        public var version: UInt32
        public var records: [JournalRecord]
        /// Where the last good record ends.
        public var end: Int
        /// Whether bytes after `end` are to be cut: what a crash left of a write.
        public var hasTornTail: Bool
        /// Where acknowledged records are damaged, if they are. Nothing may be cut then.
        public var damagedAt: Int?
        /// Where each of `records` begins.
        var positions: [Int]
        /// Up to here some record says that the journal was durable, and with it the cells that
        /// its records tell of.
        var durableTo: Int

        /// The records that no later one proves to be durable: of the last write before a crash.
        /// Their cells may be missing although the records are there.
        public var unproven: Range<Int> {
            (positions.firstIndex { $0 >= durableTo } ?? records.count)..<records.count
        }

        /// Whether the file is to be synced before anything is added to it: what is added says that
        /// all before it is durable, and only its own blocks are written. A mark alone in the last,
        /// partly filled block is written again with what comes next.
        public var mustBeSynced: Bool {
            guard let first = unproven.first else { return false }
            return records[unproven].contains { $0 != .mark }
                || positions[first] < end / 4096 * 4096
        }

        /// Takes away the record with index `index` and all behind it, as if the journal had been
        /// torn there. Precondition: it is one of the unproven.
        public mutating func cut(before index: Int) {
            precondition(unproven.contains(index), "what is durable is never cut")
            end = positions[index]
            records.removeSubrange(index...)
            positions.removeSubrange(index...)
            hasTornTail = true
        }
    }

    /// Parses a whole file. Throws if the header is not right or not all there, or a record has an
    /// unknown kind or a body that makes no sense though its checksum is right.
    public static func parse(_ bytes: UnsafeRawBufferPointer) throws(FormatError) -> Contents {
        let (header, version, seed) = try ContainerHeader.parse(bytes, of: .journal)
        // A journal gets its name with a whole block.
        guard bytes.count >= start else { throw .truncated("journal") }
        let journal = Journal(header, version: version)
        guard journal.seed == seed else {
            throw .invalid("the journal's header is not written as this program writes it")
        }
        var records: [JournalRecord] = []
        var positions: [Int] = []
        var durableTo = start
        var position = start
        while let frame = journal.frame(in: bytes, at: position) {
            records.append(try JournalRecord(body: frame.body, version: version))
            positions.append(position)
            durableTo = max(durableTo, frame.syncedTo)
            position = frame.end
        }
        let rest = UnsafeRawBufferPointer(rebasing: bytes[min(position, bytes.count)...])
        guard rest.contains(where: { $0 != 0 }) else {
            return Contents(
                header: header, version: version, records: records, end: position,
                hasTornTail: false,
                positions: positions, durableTo: durableTo)
        }
        let isDamaged = journal.hasRecord(in: bytes, thatKnowsDurable: position)
        return Contents(
            header: header, version: version, records: records, end: position,
            hasTornTail: !isDamaged,
            damagedAt: isDamaged ? position : nil, positions: positions, durableTo: durableTo)
    }

    /// A record whose checksum is right.
    private struct Frame {
        var body: UnsafeRawBufferPointer
        var end: Int
        /// The journal was durable up to here when the record was written.
        var syncedTo: Int
    }

    private func frame(in bytes: UnsafeRawBufferPointer, at position: Int) -> Frame? {
        guard bytes.count - position > Self.frame else { return nil }
        func word(_ offset: Int) -> UInt32 {
            UInt32(
                littleEndian: bytes.loadUnaligned(
                    fromByteOffset: position + offset, as: UInt32.self))
        }
        let length = Int(word(0))
        guard length > 0, length <= Limits.body,
            length <= bytes.count - position - Self.frame
        else { return nil }
        let start = position + Self.frame
        let body = UnsafeRawBufferPointer(rebasing: bytes[start..<start + length])
        let back = word(8)
        guard word(4) == checksum(position: position, back: back, body: body) else { return nil }
        return Frame(body: body, end: start + length, syncedTo: position - Int(back))
    }

    /// Whether some record after `position` was written when `position` was durable already.
    private func hasRecord(
        in bytes: UnsafeRawBufferPointer, thatKnowsDurable position: Int
    ) -> Bool {
        var place = position + 1
        while bytes.count - place > Self.frame {
            // Any byte may be where a record begins: what lies between is not to be trusted.
            if bytes[place] != 0 || bytes[place + 1] != 0 || bytes[place + 2] != 0,
                let found = frame(in: bytes, at: place), found.syncedTo > position
            {
                return true
            }
            place += 1
        }
        return false
    }

    private func checksum(position: Int, back: UInt32, body: UnsafeRawBufferPointer) -> UInt32 {
        // The length is bound by the body's own bytes and the position of what follows, but a
        // damaged length must not pair with a body that happens to check: it goes in as well.
        var words = (
            seed.littleEndian, UInt64(position).littleEndian, UInt32(body.count).littleEndian,
            back.littleEndian
        )
        var crc = CRC32C()
        withUnsafeBytes(of: &words.0) { crc.update($0) }
        withUnsafeBytes(of: &words.1) { crc.update($0) }
        withUnsafeBytes(of: &words.2) { crc.update($0) }
        withUnsafeBytes(of: &words.3) { crc.update($0) }
        crc.update(body)
        return crc.value
    }
}
