import Checksum
import Model
import Testing

@testable import ContainerFormat

@Suite struct HeaderTests {
    private func parse(
        _ bytes: [UInt8], of file: ContainerHeader.File
    ) throws -> ContainerHeader {
        try bytes.withUnsafeBytes { try ContainerHeader(parsing: $0, of: file) }
    }

    @Test("headers are read as they were written, and each file refuses the other's")
    func roundTrip() throws {
        for file in [ContainerHeader.File.data, .journal] {
            let header = try sampleHeader(UInt64.max, index: 5)
            let bytes = header.encoded(for: file)
            #expect(bytes.count == ContainerHeader.size)
            #expect(try parse(bytes, of: file) == header)
            let other: ContainerHeader.File = file == .data ? .journal : .data
            #expect(throws: FormatError.notA("container \(other) file")) {
                _ = try parse(bytes, of: other)
            }
        }
    }

    @Test("an unknown version is refused with its number")
    func version() throws {
        let block = SealedBlock.seal(magic: "APUSDATA", version: 9, body: try sampleHeader().body)
        #expect(
            throws: FormatError.unknownVersion(of: "container data file", found: 9, known: 2...3)
        ) {
            _ = try parse(block, of: .data)
        }
    }

    @Test("every flipped bit in a header is noticed")
    func flips() throws {
        let header = try sampleHeader()
        let bytes = header.encoded(for: .data)
        for bit in 0..<8 * (SealedBlock.prefix + header.body.count) {
            var flipped = bytes
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(throws: FormatError.self, "bit \(bit)") {
                _ = try parse(flipped, of: .data)
            }
        }
    }

    @Test("a header with impossible fields is refused though its checksum is right")
    func impossible() throws {
        var body = try sampleHeader().body
        body[8] = 9  // replica index
        let block = SealedBlock.seal(
            magic: "APUSDATA", version: ContainerHeader.version, body: body)
        #expect(
            throws: FormatError.invalid(
                "the container data file has replica index 9 of rs-3-2-1024k")
        ) { _ = try parse(block, of: .data) }
    }

    private func body(_ replication: String, index: UInt8) -> [UInt8] {
        [7, 0, 0, 0, 0, 0, 0, 0, index, UInt8(replication.utf8.count)] + Array(replication.utf8)
    }

    @Test("the body of a header is pinned: number, replica index, replication as text")
    func pinned() throws {
        #expect(try sampleHeader().body == body("rs-3-2-1024k", index: 2))
        let copies = ContainerHeader(
            containerID: ContainerID(7), replication: .replicated(.three), replicaIndex: 3)
        #expect(copies.body == body("ratis-3", index: 3))
        #expect(try parse(copies.encoded(for: .data), of: .data) == copies)
    }

    @Test(
        "a header of a replication that is none, or of too few copies, is refused by name",
        arguments: [
            ("ratis-2", 1, "'ratis-2'"), ("ratis-3", 4, "index 4 of ratis-3"),
            ("ratis-1", 2, "index 2 of ratis-1"), ("ratis-3", 0, "index 0 of ratis-3"),
            ("raft-3", 1, "'raft-3'"), ("", 1, "''"),
            ("rs-9223372036854775807-1-1024k", 1, "not 9223372036854775807 and 1"),
        ] as [(String, UInt8, String)])
    func otherReplications(replication: String, index: UInt8, reason: String) {
        let block = SealedBlock.seal(
            magic: "APUSDATA", version: ContainerHeader.version,
            body: body(replication, index: index))
        let error = #expect(throws: FormatError.self) { try parse(block, of: .data) }
        guard case .invalid(let text) = error else {
            Issue.record("not refused as invalid: \(String(describing: error))")
            return
        }
        #expect(text.contains("container data file") && text.contains(reason))
    }
}

@Suite struct VolumeVersionTests {
    let datanode = DatanodeID(high: 0x0123_4567_89AB_4DEF, low: 0x8123_4567_89AB_CDEF)

    @Test("the text of a VERSION file is pinned, and read back")
    func pinned() throws {
        let fresh = VolumeVersion(datanode: datanode, cluster: nil)
        let text = String(decoding: fresh.encoded(), as: UTF8.self)
        #expect(
            text.hasPrefix(
                "apus-volume 2\ndatanode 01234567-89ab-4def-8123-456789abcdef\ncluster none\ncrc32c "
            ))
        #expect(try VolumeVersion(parsing: fresh.encoded()) == fresh)
        let adopted = VolumeVersion(datanode: datanode, cluster: DatanodeID(high: 5, low: 6))
        #expect(try VolumeVersion(parsing: adopted.encoded()) == adopted)
    }

    @Test("changed, cut, foreign and future VERSION files are refused")
    func refused() throws {
        let bytes = VolumeVersion(datanode: datanode, cluster: nil).encoded()
        for position in bytes.indices {
            var flipped = bytes
            flipped[position] ^= 2
            #expect(throws: FormatError.self, "byte \(position)") {
                _ = try VolumeVersion(parsing: flipped)
            }
            #expect(throws: FormatError.self) {
                _ = try VolumeVersion(parsing: Array(bytes[..<position]))
            }
        }
        #expect(throws: FormatError.notA("volume's VERSION file")) {
            _ = try VolumeVersion(parsing: Array("layoutVersion=7\n".utf8))
        }
        let text = "apus-volume 3\ndatanode \(datanode)\ncluster none\n"
        let sum = String(CRC32C.of(Array(text.utf8)), radix: 16)
        #expect(
            throws: FormatError.unknownVersion(of: "volume's VERSION file", found: 3, known: 2...2)
        ) { _ = try VolumeVersion(parsing: Array((text + "crc32c \(sum)\n").utf8)) }
    }
}

@Suite struct BlockEntryTests {
    @Test("cells must follow one another and carry one checksum per unit")
    func append() throws {
        var entry = BlockEntry(localID: 1)
        try entry.append(
            .init(offset: 0, length: 16_384, fileOffset: 4096), checksums: [1, 2, 3, 4])
        try entry.append(.init(offset: 16_384, length: 100, fileOffset: 20_480), checksums: [5])
        #expect(entry.length == 16_484)
        #expect(entry.extents == [4096..<24_576])
        #expect(throws: FormatError.self) {
            try entry.append(.init(offset: 16_484, length: 1, fileOffset: 40_960), checksums: [6])
        }
        #expect(throws: FormatError.self) {
            var other = BlockEntry(localID: 2)
            try other.append(
                .init(offset: 0, length: 16_385, fileOffset: 4096), checksums: [1, 2, 3, 4])
        }
    }

    @Test("the cell of every byte is found")
    func cellIndex() {
        var noise = Noise(seed: 21)
        let entry = randomEntry(1, &noise)
        for (index, cell) in entry.cells.enumerated() {
            for offset in [cell.offset, cell.offset + cell.length / 2, cell.end - 1] {
                #expect(entry.cellIndex(at: offset) == index)
            }
            #expect(entry.checksums(ofCell: index).count == CRC32C.unitCount(cell.length))
        }
    }
}

@Suite struct IndexTests {
    /// Finds `localID` in an index as a reader of the file would.
    private func find(
        _ localID: UInt64, in file: [UInt8], at base: Int
    ) throws -> BlockEntry? {
        let footer = try file.suffix(4096).withUnsafeBytes { try ContainerFooter(parsing: $0) }
        let pages = try file[(footer.tableOffset - base)...].withUnsafeBytes {
            try ContainerIndex.parseTable($0, footer: footer)
        }
        guard let number = ContainerIndex.page(of: localID, in: pages) else { return nil }
        let entries = try file[(pages[number].fileOffset - base)...].withUnsafeBytes {
            try ContainerIndex.parsePage($0, pages[number])
        }
        return entries.first { $0.localID == localID }
    }

    @Test("every block of a large index is found through footer, table and page")
    func lookup() throws {
        var noise = Noise(seed: 31)
        let entries = (1...700).map { randomEntry(UInt64($0 * 3), &noise) }
        let header = try sampleHeader()
        let base = 1 << 30
        let file = ContainerIndex.encode(entries, header: header, usedBytes: 77, at: base)
        #expect(file.count % 4096 == 0)
        let footer = try file.suffix(4096).withUnsafeBytes { try ContainerFooter(parsing: $0) }
        #expect(footer.header == header && footer.blockCount == 700 && footer.usedBytes == 77)
        for entry in entries {
            #expect(try find(entry.localID, in: file, at: base) == entry)
            #expect(try find(entry.localID + 1, in: file, at: base) == nil)
        }
        #expect(try find(0, in: file, at: base) == nil)
    }

    @Test("an index of no blocks is an index")
    func empty() throws {
        let file = ContainerIndex.encode([], header: try sampleHeader(), usedBytes: 0, at: 4096)
        #expect(file.count == 4096)
        #expect(try find(1, in: file, at: 4096) == nil)
    }

    @Test("every flipped bit of pages, table and footer is noticed when it is looked at")
    func flips() throws {
        var noise = Noise(seed: 32)
        let entries = (1...5).map { randomEntry(UInt64($0), &noise) }
        let file = ContainerIndex.encode(
            entries, header: try sampleHeader(), usedBytes: 1, at: 4096)
        for _ in 0..<3000 {
            var flipped = file
            let bit = Int.random(in: 0..<file.count * 8, using: &noise)
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            for entry in entries {
                // Found right or refused; padding may change unnoticed.
                if let found = try? find(entry.localID, in: flipped, at: 4096) {
                    #expect(found == entry)
                }
            }
        }
    }

    @Test("pages that are mutated under a right checksum are parsed or refused, never trapped on")
    func fuzz() throws {
        var noise = Noise(seed: 33)
        let entries = (1...4).map { randomEntry(UInt64($0), &noise) }
        let file = ContainerIndex.encode(
            entries, header: try sampleHeader(), usedBytes: 1, at: 0)
        for _ in 0..<5000 {
            var page = Array(file.prefix(Int.random(in: 1...4096, using: &noise)))
            for _ in 0..<Int.random(in: 1...4, using: &noise) {
                page[Int.random(in: 0..<page.count, using: &noise)] =
                    UInt8.random(in: 0...255, using: &noise)
            }
            let info = ContainerIndex.PageInfo(
                firstLocalID: 1, fileOffset: 0, length: page.count, checksum: CRC32C.of(page))
            _ = page.withUnsafeBytes { try? ContainerIndex.parsePage($0, info) }
        }
    }
}
