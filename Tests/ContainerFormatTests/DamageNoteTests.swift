import Model
import Testing

@testable import ContainerFormat

@Suite("notes on kept damage") struct DamageNoteTests {
    private let note = DamageNote(
        block: BlockID(containerID: ContainerID(7), localID: 99), replicaIndex: 4,
        range: 8192..<13_000, fileOffset: 1 << 33, at: Timestamp(milliseconds: 1_700_000_000_123),
        checksums: [0, 0xDEAD_BEEF])

    @Test("a note is read as it was written, is text, and fills its block")
    func roundTrip() throws {
        let bytes = note.encoded()
        #expect(bytes.count == DamageNote.size)
        #expect(try DamageNote(parsing: bytes + [1, 2, 3]) == note)
        #expect(String(decoding: bytes, as: UTF8.self).hasPrefix("apus-damaged 1\ncontainer 7\n"))
        #expect(throws: FormatError.self) { try DamageNote(parsing: Array(bytes.dropLast())) }
    }

    @Test("the checksums of much damage are left out, so that it still fits")
    func most() throws {
        var long = note
        long = DamageNote(
            block: note.block, replicaIndex: 1, range: 0..<1 << 20, fileOffset: 4096, at: note.at,
            checksums: Array(repeating: .max, count: 256))
        let parsed = try DamageNote(parsing: long.encoded())
        #expect(parsed == long && parsed.checksums.count == DamageNote.mostChecksums)
    }

    @Test("a changed bit, or another version, is refused")
    func damaged() {
        let bytes = note.encoded()
        // Up to its checksum, of which a letter may be large or small.
        let sum = Array("crc32c ".utf8)
        let end = bytes.indices.last { bytes[$0...].starts(with: sum) }!
        for bit in 0..<end * 8 {
            var changed = bytes
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(throws: FormatError.self, "bit \(bit)") { try DamageNote(parsing: changed) }
        }
        var later = bytes
        later[13] = UInt8(ascii: "2")
        #expect(throws: FormatError.self) { try DamageNote(parsing: later) }
    }
}
