import Model
import Testing

@testable import ContainerFormat

@Suite struct JournalTests {
    @Test("every kind of record is read as it was written")
    func roundTrip() throws {
        let contents = try Journal.parse(try journalFile([everyKind]))
        #expect(contents.records == everyKind)
        #expect(contents.header == (try sampleHeader()))
        #expect(!contents.hasTornTail && contents.damagedAt == nil)
    }

    @Test("batches across block borders are read in order, and an end without zeros is an end")
    func batches() throws {
        let batches = (0..<200).map { number in
            (0...(number % 4)).map { cellRecord(UInt64(number * 10 + $0), length: 300_000) }
        }
        for ahead in [0, 8192] {
            let contents = try Journal.parse(try journalFile(batches, ahead: ahead))
            #expect(contents.records == batches.flatMap { $0 })
            #expect(!contents.hasTornTail && contents.damagedAt == nil)
        }
    }

    @Test("a tail resumed from a parsed journal writes what the old tail would have")
    func resume() throws {
        let file = try journalFile([everyKind, everyKind])
        let contents = try Journal.parse(file)
        var resumed = file.withUnsafeBytes { JournalTail(contents, of: $0) }
        #expect(resumed.end == contents.end)
        let write = resumed.append([.mark])
        var longer = file
        longer.replaceSubrange(write.offset..<write.offset + write.bytes.count, with: write.bytes)
        #expect(try Journal.parse(longer).records == everyKind + everyKind + [.mark])
    }

    @Test("a journal is synced before more is added, unless what is unproven is written again")
    func mustBeSynced() throws {
        #expect(!(try Journal.parse(try journalFile([])).mustBeSynced))
        #expect(try Journal.parse(try journalFile([[cellRecord(1)]])).mustBeSynced)
        let two = try journalFile([[cellRecord(1)], [cellRecord(2)]])
        #expect(try Journal.parse(two).mustBeSynced)
        // A mark is written again with what comes next where it lies in the last block alone.
        var alone = 0
        for count in 1...120 {
            let batches = (1...count).map { [cellRecord(UInt64($0))] } + [[.mark]]
            let contents = try Journal.parse(try journalFile(batches))
            #expect(contents.unproven.count == 1)
            let isAlone =
                contents.end % 4096 >= Journal.frame + JournalRecord.mark.body(version: 3).count
            #expect(contents.mustBeSynced == !isAlone)
            alone += isAlone ? 1 : 0
        }
        #expect((1..<120).contains(alone))
    }

    @Test("a last batch torn at any sector is cut, and everything before it stays")
    func torn() throws {
        let before = [everyKind, [cellRecord(50)]]
        let last = (60..<80).map { cellRecord(UInt64($0), length: 500_000) }
        let old = try journalFile(before, ahead: 16_384)
        let new = try journalFile(before + [last], ahead: 16_384)
        var noise = Noise(seed: 4)
        for _ in 0..<300 {
            var mixed = new
            for sector in 0..<(mixed.count / 512) where Bool.random(using: &noise) {
                let range = sector * 512..<(sector + 1) * 512
                let was =
                    range.upperBound <= old.count
                    ? Array(old[range]) : [UInt8](repeating: 0, count: 512)
                mixed.replaceSubrange(range, with: was)
            }
            let contents = try Journal.parse(mixed)
            #expect(contents.damagedAt == nil)
            let expected = before.flatMap { $0 } + last
            #expect(contents.records == Array(expected.prefix(contents.records.count)))
            #expect(contents.records.count >= before.flatMap { $0 }.count)
        }
    }

    @Test("a bit flipped in acknowledged records is damage, never a torn tail")
    func damaged() throws {
        let file = try journalFile([everyKind, [cellRecord(50), cellRecord(51)], [.mark]])
        let whole = try Journal.parse(file)
        let acknowledged = whole.end - Journal.frame - JournalRecord.mark.body(version: 3).count
        for position in Journal.start..<acknowledged {
            var flipped = file
            flipped[position] ^= 1 << UInt8(position % 8)
            let contents = try Journal.parse(flipped)
            #expect(contents.damagedAt != nil, "byte \(position)")
            #expect(!contents.hasTornTail)
            #expect(contents.records == Array(whole.records.prefix(contents.records.count)))
            #expect(contents.end <= position)
        }
    }

    @Test("a record of another journal is no record of this one")
    func foreign() throws {
        let header = try sampleHeader()
        let other = Journal(try sampleHeader(8))
        let file =
            header.encoded(for: .journal)
            + other.encode(.mark, at: Journal.start, syncedTo: Journal.start)
        let contents = try Journal.parse(file)
        #expect(contents.records.isEmpty && contents.hasTornTail)
        // Nor is one that was written for another place.
        let shifted =
            header.encoded(for: .journal)
            + Journal(header).encode(.mark, at: Journal.start + 8, syncedTo: Journal.start)
        #expect(try Journal.parse(shifted).records.isEmpty)
    }

    @Test("a record of an unknown kind is refused with its number")
    func unknownKind() throws {
        #expect(throws: FormatError.unknownRecord(kind: 99)) {
            try [99, 0].withUnsafeBytes { try JournalRecord(body: $0, version: 3) }
        }
    }

    @Test("mutated journals and record bodies are parsed or refused, never trapped on")
    func fuzz() throws {
        let file = try journalFile([everyKind, everyKind, everyKind], ahead: 600)
        let bodies = everyKind.map { $0.body(version: 3) }
        var noise = Noise(seed: 11)
        for _ in 0..<400 {
            var mutated = file
            for _ in 0..<Int.random(in: 1...8, using: &noise) {
                let place = Int.random(in: 0..<mutated.count, using: &noise)
                mutated[place] = UInt8.random(in: 0...255, using: &noise)
            }
            mutated.removeLast(Int.random(in: 0...mutated.count, using: &noise))
            _ = try? Journal.parse(mutated)
        }
        for _ in 0..<20_000 {
            var body = bodies.randomElement(using: &noise) ?? []
            for _ in 0..<Int.random(in: 1...4, using: &noise) {
                body[Int.random(in: 0..<body.count, using: &noise)] =
                    [0, 0xFF, 0x7F, 0x80, 1].randomElement(using: &noise) ?? 0
            }
            body.removeLast(Int.random(in: 0..<body.count, using: &noise) / 2)
            let parsed = body.withUnsafeBytes { try? JournalRecord(body: $0, version: 3) }
            // What is accepted is written as it was read.
            if let parsed { #expect(parsed.body(version: 3) == body) }
        }
    }
}
