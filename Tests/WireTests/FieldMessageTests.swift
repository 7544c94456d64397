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
                $0.codec = [.rs, .xor, .UNRECOGNIZED(7), .UNRECOGNIZED(-1)].randomElement() ?? .rs
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
                    }
                }
                if coin() { $0.parts = [.with { $0.number = 3 }] }
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
                if coin() { $0.upload = identity() }
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
                if coin() { $0.parts = [.with { $0.number = 3 }] }
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
            }
        }
        mutating func readRequest() -> DNReadBlockRequest {
            .with {
                if coin() { $0.block = block() }
                $0.offset = number()
                $0.length = number()
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

    @Test func byHandAndGeneratedGiveTheSame() throws {
        var source = Source()
        for _ in 0..<400 {
            expectSameBytes(source.write())
            expectSameBytes(source.readRequest())
            expectSameBytes(source.readResponse())
            expectSameBytes(source.lookup())
            expectSameBytes(DNWriteCellResponse.with { $0.durableLength = source.number() })
            try expectSame(source.write())
            try expectSame(source.readRequest())
            try expectSame(source.readResponse())
            try expectSame(source.lookup())
            try expectSame(source.key())
            try expectSame(OMKeyResponse.with { $0.key = source.key() })
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
