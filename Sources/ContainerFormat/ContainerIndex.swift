import Checksum
import Model

/// The sorted index of a closed container, as it is written into the data file after the cells:
/// pages of block entries, a table of the pages, and a footer of 4 KiB at the very end.
///
/// Every page begins at a multiple of 4 KiB. To find a block, read the footer, the table, and the
/// one page that may hold the block.
public enum ContainerIndex {
    public enum Limits {
        /// A page is ended when it has at least this many bytes; one large block may make it
        /// longer.
        public static let page = 64 * 1024
        /// The longest page: a block of full size with the smallest cells.
        public static let largestPage = 8 << 20
        /// The longest table.
        public static let table = 256 << 20
    }

    /// Where one page lies, and what it begins with.
    public struct PageInfo: Hashable, Sendable {
        public var firstLocalID: UInt64
        public var fileOffset: Int
        /// Bytes, without the padding to 4 KiB.
        public var length: Int
        public var checksum: UInt32
    }

    /// The index and footer of `entries`, to be written at `fileOffset`: whole blocks of 4 KiB,
    /// the last of which is the footer.
    ///
    /// Preconditions: entries in ascending order of local ID; `fileOffset` is aligned to 4 KiB.
    public static func encode(
        _ entries: [BlockEntry], header: ContainerHeader, usedBytes: Int, at fileOffset: Int
    ) -> [UInt8] {
        precondition(fileOffset % DataFile.alignment == 0, "an index begins at a block of 4 KiB")
        precondition(
            zip(entries, entries.dropFirst()).allSatisfy { $0.localID < $1.localID },
            "index entries are sorted")
        var bytes: [UInt8] = []
        var pages: [PageInfo] = []
        var page = ByteWriter()
        var first: UInt64?
        func endPage() {
            guard let id = first else { return }
            pages.append(
                PageInfo(
                    firstLocalID: id, fileOffset: fileOffset + bytes.count,
                    length: page.bytes.count, checksum: CRC32C.of(page.bytes)))
            bytes += page.bytes
            pad(&bytes)
            page = ByteWriter()
            first = nil
        }
        for entry in entries {
            if first == nil { first = entry.localID }
            append(entry, to: &page)
            if page.bytes.count >= Limits.page { endPage() }
        }
        endPage()
        var table = ByteWriter()
        for info in pages {
            table.append(info.firstLocalID)
            table.append64(info.fileOffset)
            table.append32(info.length)
            table.append(info.checksum)
        }
        let footer = ContainerFooter(
            header: header, blockCount: entries.count, usedBytes: usedBytes,
            tableOffset: fileOffset + bytes.count, tableLength: table.bytes.count,
            tableChecksum: CRC32C.of(table.bytes))
        bytes += table.bytes
        pad(&bytes)
        return bytes + footer.encoded()
    }

    private static func pad(_ bytes: inout [UInt8]) {
        let missing = DataFile.aligned(bytes.count) - bytes.count
        bytes.append(contentsOf: repeatElement(0, count: missing))
    }

    /// Parses the table that `footer` points to. `bytes` may be longer than it.
    public static func parseTable(
        _ bytes: UnsafeRawBufferPointer, footer: ContainerFooter
    ) throws(FormatError) -> [PageInfo] {
        guard bytes.count >= footer.tableLength else { throw .truncated("index table") }
        let table = UnsafeRawBufferPointer(rebasing: bytes[..<footer.tableLength])
        guard CRC32C.of(table) == footer.tableChecksum else {
            throw .checksum(of: "index table")
        }
        var reader = ByteReader(table, of: "index table")
        var pages: [PageInfo] = []
        while reader.remaining > 0 {
            let page = PageInfo(
                firstLocalID: try reader.read(UInt64.self), fileOffset: try reader.read64(),
                length: try reader.read32(), checksum: try reader.read(UInt32.self))
            guard page.fileOffset % DataFile.alignment == 0, page.length > 0,
                page.length <= Limits.largestPage,
                pages.last.map({ $0.firstLocalID < page.firstLocalID }) ?? true
            else { throw .invalid("the index table has an impossible page") }
            pages.append(page)
        }
        return pages
    }

    /// The number of the page that holds `localID` if any does; `nil` if it lies before all.
    public static func page(of localID: UInt64, in pages: [PageInfo]) -> Int? {
        var low = 0
        var high = pages.count
        while low < high {
            let middle = (low + high) / 2
            if pages[middle].firstLocalID <= localID { low = middle + 1 } else { high = middle }
        }
        return low == 0 ? nil : low - 1
    }

    /// Parses one page. `bytes` may be longer than it.
    public static func parsePage(
        _ bytes: UnsafeRawBufferPointer, _ info: PageInfo
    ) throws(FormatError) -> [BlockEntry] {
        guard bytes.count >= info.length else { throw .truncated("index page") }
        let page = UnsafeRawBufferPointer(rebasing: bytes[..<info.length])
        guard CRC32C.of(page) == info.checksum else { throw .checksum(of: "index page") }
        var reader = ByteReader(page, of: "index page")
        var entries: [BlockEntry] = []
        while reader.remaining > 0 {
            let entry = try entry(from: &reader)
            guard entries.last.map({ $0.localID < entry.localID }) ?? true else {
                throw .invalid("an index page is not sorted")
            }
            entries.append(entry)
        }
        return entries
    }

    private static func append(_ entry: BlockEntry, to page: inout ByteWriter) {
        page.append(entry.localID)
        page.append64(entry.groupLength)
        page.append(UInt8(entry.isEnded ? 1 : 0))
        page.append32(entry.cells.count)
        for cell in entry.cells {
            page.append32(cell.length)
            page.append64(cell.fileOffset)
        }
        for checksum in entry.checksums { page.append(checksum) }
    }

    private static func entry(from reader: inout ByteReader) throws(FormatError) -> BlockEntry {
        var entry = BlockEntry(
            localID: try reader.read(UInt64.self), groupLength: try reader.read64(),
            isEnded: try reader.read(UInt8.self) == 1)
        let count = try reader.read32()
        guard count <= reader.remaining / 12 else { throw .truncated("index page") }
        var cells: [BlockEntry.Cell] = []
        cells.reserveCapacity(count)
        var offset = 0
        for _ in 0..<count {
            let length = try reader.read32()
            cells.append(
                .init(offset: offset, length: length, fileOffset: try reader.read64()))
            offset += length
        }
        for cell in cells {
            try entry.append(
                cell, checksums: try reader.readChecksums(CRC32C.unitCount(cell.length)))
        }
        return entry
    }
}
