import Checksum
import Model
import Testing

@testable import ContainerFormat

/// Files of the version before, and records of this one that nothing acts on yet.
@Suite("Versions of container files") struct VersionTests {
    private func journal(version: UInt32, _ records: [JournalRecord]) throws -> [UInt8] {
        let header = try sampleHeader()
        var bytes = header.encoded(for: .journal, version: version)
        let journal = Journal(header, version: version)
        for record in records {
            bytes += journal.encode(record, at: bytes.count, syncedTo: bytes.count)
        }
        return bytes + [UInt8](repeating: 0, count: 4096)
    }

    @Test("a journal of version 2 is read, and goes on in version 2")
    func older() throws {
        let records: [JournalRecord] = [
            cellRecord(1), .mark, .closed(footerOffset: 8192, blockCount: 1, usedBytes: 5),
        ]
        let bytes = try journal(version: 2, records)
        // The kind, three numbers: no generation.
        #expect(records[2].body(version: 2).count == 25)
        #expect(records[2].body(version: 3).count == 33)
        let parsed = try Journal.parse(bytes)
        #expect(parsed.version == 2 && parsed.records == records)
        var tail = bytes.withUnsafeBytes { JournalTail(parsed, of: $0) }
        let write = tail.append([.reclaimed(localID: 1)])
        let longer = Array(bytes[..<write.offset]) + write.bytes
        #expect(try Journal.parse(longer).records == records + [.reclaimed(localID: 1)])
    }

    @Test("a journal of version 2 has none of the records of version 3")
    func none() throws {
        let header = try sampleHeader()
        let seed = Journal(header, version: 2)
        // A body that only version 3 has, sealed as a record of version 2.
        let body = JournalRecord.drop(token: 7).body(version: 3)
        var bytes = header.encoded(for: .journal, version: 2)
        bytes += seed.encode(body: body, at: bytes.count, syncedTo: bytes.count)
        #expect(throws: FormatError.unknownRecord(kind: 12)) { _ = try Journal.parse(bytes) }
    }

    @Test(
        "a record that nothing acts on yet is refused by name, and not taken for damage",
        arguments: [
            (JournalRecord.recovered(token: 1), "recovered"),
            (.staged(.init(token: 1, length: 1, fileOffset: 4096), checksums: [1]), "staged"),
            (
                .adopt(token: 1, offset: 0, .init(localID: 1, groupLength: 1, isEnded: false)),
                "adopt"
            ),
            (.drop(token: 1), "drop"),
            (
                .replaceTail(
                    .init(offset: 0, length: 1, fileOffset: 4096), checksums: [1],
                    .init(localID: 1, groupLength: 1, isEnded: false)), "replaceTail"
            ),
            (
                .closed(footerOffset: 4096, blockCount: 0, usedBytes: 0, generation: 3),
                "generation 3"
            ),
        ])
    func unsupported(record: JournalRecord, name: String) throws {
        let parsed = try Journal.parse(try journal(version: 3, [record]))
        #expect(parsed.records == [record])
        var contents = ContainerContents()
        do throws(FormatError) {
            try contents.apply(record)
            Issue.record("it was applied")
        } catch {
            guard case .unsupported(let what) = error else {
                Issue.record("\(error)")
                return
            }
            #expect(what.contains(name))
        }
    }

    @Test("a footer of version 2 is read as generation 0")
    func footer() throws {
        let header = try sampleHeader()
        let bytes = ContainerIndex.encode([], header: header, usedBytes: 0, at: 4096)
        let block = Array(bytes.suffix(ContainerFooter.size))
        let new = try block.withUnsafeBytes { try ContainerFooter(parsing: $0) }
        #expect(new.generation == 0 && new.header == header)
        var writer = ByteWriter()
        writer.append64(new.blockCount)
        writer.append64(new.usedBytes)
        writer.append64(new.tableOffset)
        writer.append64(new.tableLength)
        writer.append(new.tableChecksum)
        writer.append(header.body)
        let old = SealedBlock.seal(magic: "APUSFOOT", version: 2, body: writer.bytes)
        #expect(try old.withUnsafeBytes { try ContainerFooter(parsing: $0) } == new)
    }
}
