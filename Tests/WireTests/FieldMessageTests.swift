import FoundationEssentials
import Model
import SwiftProtobuf
import Testing

@testable import Wire

/// Messages that are read and written by hand, beside the generated code.
@Suite struct FieldMessageTests {
    /// Random messages, with each field set or not.
    struct Source {
        var random = SystemRandomNumberGenerator()

        mutating func coin() -> Bool { Bool.random(using: &random) }
        mutating func number() -> UInt64 {
            [0, 1, 127, 128, 300, UInt64(UInt32.max), .max].randomElement(using: &random) ?? 0
        }
        mutating func text() -> String {
            let count = [0, 1, 15, 16, 126, 127, 128, 129, 20_000].randomElement(using: &random)
            return String(repeating: coin() ? "a" : "ü", count: count ?? 0)
        }
        mutating func octets() -> Data { Data(text().utf8) }
        mutating func several<M>(_ make: (inout Source) -> M) -> [M] {
            (0..<Int.random(in: 0...3, using: &random)).map { _ in make(&self) }
        }

        mutating func replication() -> WireReplication {
            .with {
                $0.codec =
                    [.rs, .xor, .copies, .UNRECOGNIZED(7), .UNRECOGNIZED(-1)].randomElement() ?? .rs
                $0.data = UInt32(truncatingIfNeeded: number())
                $0.parity = UInt32(truncatingIfNeeded: number())
                $0.cellSize = UInt32(truncatingIfNeeded: number())
            }
        }
        mutating func block() -> WireBlock {
            .with {
                $0.container = number()
                $0.local = number()
            }
        }
        mutating func identity() -> WireIdentity {
            .with {
                $0.high = number()
                $0.low = number()
            }
        }
        mutating func address() -> WireAddress {
            .with {
                if coin() { $0.id = identity() }
                $0.host = text()
                $0.port = UInt32(truncatingIfNeeded: number())
                $0.rack = text()
            }
        }
        mutating func group() -> WireGroup {
            .with {
                if coin() { $0.block = block() }
                if coin() { $0.replication = replication() }
                $0.length = number()
                $0.nodes = several { $0.address() }
                $0.offset = number()
                $0.count = number()
                $0.mayCreate = several { $0.number() }
                $0.token = octets()
            }
        }
        mutating func path() -> OMKeyPath {
            .with {
                if coin() {
                    $0.bucket = .with {
                        $0.volume = text()
                        $0.bucket = text()
                    }
                }
                $0.name = octets()
            }
        }
        mutating func attributes() -> OMAttributes {
            .with { if coin() { $0.headers = ["content-type": text(), "x": ""] } }
        }
        mutating func checksum() -> OMChecksum {
            .with {
                $0.algorithm = .sha256
                $0.kind = coin() ? .composite : .UNRECOGNIZED(9)
                $0.value = text()
            }
        }
        mutating func commit() -> OMCommitRequest {
            .with {
                $0.openID = number()
                $0.groups = several { $0.group() }
                $0.etag = text()
                if coin() { $0.attributes = attributes() }
                if coin() { $0.checksum = checksum() }
                if coin() {
                    $0.condition = .with {
                        $0.kind = coin() ? .ifEtag : .UNRECOGNIZED(77)
                        $0.etag = text()
                        $0.generation = number()
                    }
                }
                $0.user = text()
                if coin() { $0.key = path() }
                if coin() { $0.upload = identity() }
                $0.part = UInt32(truncatingIfNeeded: number())
            }
        }
        mutating func open() -> OMOpenCommand {
            .with {
                if coin() { $0.key = path() }
                if coin() { $0.replication = replication() }
                $0.user = text()
                $0.blocks = several { $0.block() }
                if coin() { $0.upload = identity() }
                $0.part = UInt32(truncatingIfNeeded: number())
            }
        }
        mutating func openRecord() -> OMOpenRecord {
            .with {
                if coin() { $0.key = path() }
                $0.bucketNumber = number()
                $0.user = text()
                $0.created = Int64(bitPattern: number())
                if coin() { $0.replication = replication() }
                $0.blocks = several { $0.block() }
                if coin() { $0.upload = identity() }
                $0.part = UInt32(truncatingIfNeeded: number())
            }
        }
        mutating func layout() -> OMKeyLayout {
            .with {
                $0.blocks = several { source in
                    OMStoredBlock.with {
                        $0.container = source.number()
                        $0.local = source.number()
                        $0.length = source.number()
                        $0.offset = source.number()
                        $0.count = source.number()
                    }
                }
                $0.parts = several { $0.part() }
            }
        }
        mutating func part() -> OMPart {
            .with {
                $0.number = UInt32(truncatingIfNeeded: number())
                $0.length = number()
                $0.etag = text()
                $0.modified = Int64(bitPattern: number())
                if coin() { $0.checksum = checksum() }
            }
        }
        mutating func excerpt() -> OMKeyExcerpt {
            .with {
                $0.groupsOffset = number()
                $0.partsCount = UInt32(truncatingIfNeeded: number())
                $0.partOffset = number()
                $0.groupsEnd = number()
            }
        }
        mutating func usage() -> OMUsageRecord {
            .with {
                $0.keys = number()
                $0.bytes = number()
                $0.isCounted = coin()
                $0.countedTo = octets()
            }
        }
        mutating func deleted() -> OMDeletedRecord {
            .with {
                $0.deleted = Int64(bitPattern: number())
                $0.blocks = several { $0.block() }
            }
        }
        mutating func record() -> OMKeyRecord {
            .with {
                $0.length = number()
                $0.etag = text()
                $0.modified = Int64(bitPattern: number())
                if coin() { $0.replication = replication() }
                if coin() { $0.attributes = attributes() }
                if coin() { $0.checksum = checksum() }
                $0.layout = octets()
                $0.openID = number()
                if coin() { $0.upload = [identity()] }
                $0.generation = number()
            }
        }
        mutating func key() -> OMKey {
            .with {
                $0.name = octets()
                $0.length = number()
                $0.etag = text()
                $0.modified = Int64(bitPattern: number())
                if coin() { $0.replication = replication() }
                if coin() { $0.attributes = attributes() }
                if coin() { $0.checksum = checksum() }
                $0.groups = several { $0.group() }
                $0.parts = several { $0.part() }
                $0.generation = number()
            }
        }
        mutating func checksums() -> [UInt32] {
            several { UInt32(truncatingIfNeeded: $0.number()) }
        }
        mutating func write() -> DNWriteCellRequest {
            .with {
                if coin() { $0.block = block() }
                if coin() { $0.replication = replication() }
                $0.replicaIndex = UInt32(truncatingIfNeeded: number())
                $0.offset = number()
                $0.checksums = checksums()
                $0.groupLength = number()
                $0.endOfBlock = coin()
                $0.mayCreate = number()
                $0.token = octets()
            }
        }
        mutating func readRequest() -> DNReadBlockRequest {
            .with {
                if coin() { $0.block = block() }
                $0.offset = number()
                $0.length = number()
                $0.replicaIndex = UInt32(truncatingIfNeeded: number())
                $0.token = octets()
            }
        }
        mutating func readResponse() -> DNReadBlockResponse {
            .with {
                $0.offset = number()
                $0.checksums = checksums()
            }
        }
        mutating func lookup() -> OMLookupKeyRequest {
            .with {
                if coin() { $0.key = path() }
                $0.user = text()
                $0.refresh = coin()
                if coin() {
                    $0.selection = .with {
                        $0.kind = [.range, .part, .all, .UNRECOGNIZED(8)].randomElement() ?? .head
                        $0.start = number()
                        $0.end = number()
                        $0.count = number()
                        $0.part = UInt32(truncatingIfNeeded: number())
                    }
                }
            }
        }
        mutating func command() -> OMCommand {
            .with {
                $0.time = Int64(bitPattern: number())
                switch Int.random(in: 0...3, using: &random) {
                case 0: $0.body = .open(open())
                case 1: $0.body = .commit(commit())
                case 2: $0.body = .deleteUser(text())
                default: break
                }
                $0.version = UInt32(truncatingIfNeeded: number())
            }
        }
    }

    private func expectSameBytes(_ message: some FieldWritable) {
        #expect(message.encoded == message.generatedEncoded)
    }

    private func expectSame<M: FieldReadable & Equatable>(_ message: M) throws {
        let bytes = message.generatedEncoded
        #expect(try M(parsing: bytes) == message)
        // Cut or changed bytes: the same answer as from the generated parser, whatever it is.
        guard !bytes.isEmpty else { return }
        var damaged = bytes
        if Bool.random() { damaged.removeLast(Int.random(in: 1...damaged.count)) }
        if !damaged.isEmpty { damaged[damaged.indices.randomElement() ?? 0] ^= UInt8(1 << 3) }
        let expected = try? M(generatedParsing: damaged)
        let found = try? M(parsing: damaged)
        #expect(found == expected, "\(damaged.prefix(200))")
    }

    @Test func anExcerptIsWhatTheWholeLayoutSays() throws {
        var source = Source()
        for round in 0..<400 {
            var layout = source.layout()
            for index in layout.blocks.indices {
                layout.blocks[index].length = .random(in: 0...9)
                // Of some only a part is referred to.
                layout.blocks[index].count = .random(in: 0...layout.blocks[index].length)
            }
            // Fields of a later version are read by the generated parser.
            var bytes = layout.encoded
            if round % 4 == 0 { bytes += [0x98, 0x06, 0x01] }
            let start = UInt64.random(in: 0...20)
            let range = start..<start + .random(in: 0...20)
            var expected: [OMStoredBlock] = []
            var offset: UInt64 = 0
            var position: UInt64 = 0
            for block in layout.blocks {
                let count = block.count == 0 ? block.length : block.count
                let bytes = position..<position + count
                if bytes.overlaps(range) {
                    if expected.isEmpty { offset = position }
                    expected.append(block)
                }
                position += count
            }
            let found = try LayoutExcerpt(of: Data(bytes), bytes: range)
            #expect(found.blocks == expected && found.offset == offset && !found.isCut)
            let cut = try LayoutExcerpt(of: Data(bytes), bytes: range, limit: 1)
            #expect(cut.blocks == expected.prefix(1).map { $0 } && cut.offset == offset)
            #expect(cut.isCut == (expected.count > 1))
            #expect(cut.end == offset + (cut.blocks.first?.bytesReferred ?? 0))
        }
    }

    @Test func theHeadOfARecordIsTheRecordWithoutItsLayout() throws {
        var source = Source()
        for _ in 0..<400 {
            let record = source.record()
            var expected = record
            expected.layout = Data()
            expected.openID = 0
            expected.upload = []
            for isWanted in [true, false] {
                if !isWanted { expected.clearAttributes() }
                var found = try OMKeyRecord(head: record.encoded, attributes: isWanted)
                // The generated parser reads all.
                found.layout = Data()
                found.openID = 0
                found.upload = []
                #expect(found == expected)
            }
        }
    }

    @Test func byHandAndGeneratedGiveTheSame() throws {
        var source = Source()
        for _ in 0..<400 {
            expectSameBytes(source.write())
            expectSameBytes(source.readRequest())
            expectSameBytes(source.readResponse())
            expectSameBytes(source.lookup())
            expectSameBytes(source.usage())
            try expectSame(source.usage())
            expectSameBytes(DNWriteCellResponse.with { $0.durableLength = source.number() })
            try expectSame(source.write())
            try expectSame(source.readRequest())
            try expectSame(source.readResponse())
            try expectSame(source.lookup())
            try expectSame(source.key())
            let answer = OMKeyResponse.with {
                $0.key = source.key()
                $0.excerpt = source.several { $0.excerpt() }
            }
            try expectSame(answer)
            expectSameBytes(answer)
            let deleted = source.deleted()
            try expectSame(deleted)
            expectSameBytes(deleted)
            try expectSame(DNWriteCellResponse.with { $0.durableLength = source.number() })
            expectSameBytes(source.group())
            expectSameBytes(source.commit())
            expectSameBytes(source.openRecord())
            expectSameBytes(source.layout())
            expectSameBytes(source.record())
            expectSameBytes(source.command())
            let key = source.key()
            expectSameBytes(key)
            expectSameBytes(OMKeyResponse.with { $0.key = key })
            expectSameBytes(
                OMOpenResponse.with {
                    $0.openID = source.number()
                    $0.replication = source.replication()
                    $0.groups = [source.group()]
                })
            try expectSame(source.group())
            try expectSame(SCMGroupsResponse.with { $0.groups = [source.group(), source.group()] })
            try expectSame(source.commit())
            try expectSame(source.openRecord())
            try expectSame(source.layout())
            try expectSame(source.record())
            try expectSame(source.command())
            try expectSame(
                OMOpenKeyRequest.with {
                    $0.key = source.path()
                    if source.coin() { $0.length = source.number() }
                    if source.coin() { $0.replication = source.replication() }
                    $0.user = source.text()
                    if source.coin() { $0.avoiding = [source.identity(), source.identity()] }
                })
            try expectSame(
                OMLookupKeyRequest.with {
                    $0.key = source.path()
                    $0.user = source.text()
                    $0.refresh = source.coin()
                })
        }
    }

    @Test func fieldsOfALaterVersionAreKept() throws {
        // Field 100, a number, behind and within.
        let unknown: [UInt8] = [0xA0, 0x06, 0x05]
        let inner = [UInt8](arrayLiteral: 0x08, 0x07) + unknown
        let bytes = [0x32, UInt8(inner.count)] + inner + unknown
        let record = try OMOpenRecord(parsing: bytes)
        #expect(record.blocks.map(\.container) == [7])
        #expect(record.encoded == bytes)
    }

    @Test func aMessageThatComesTwiceIsMerged() throws {
        let bytes: [UInt8] = [0x0A, 0x02, 0x08, 0x01, 0x0A, 0x02, 0x10, 0x02]
        let group = try WireGroup(parsing: bytes)
        #expect(group.block.container == 1)
        #expect(group.block.local == 2)
    }
}
