import Model
import SwiftProtobuf
import Testing

@testable import Wire

/// How a replication travels and is stored: in messages, in the tables of OM and SCM, in logs.
@Suite struct ReplicationMessageTests {
    @Test(
        "the bytes of a replication are pinned: of erasure coding, those of before there was another",
        arguments: [
            ("rs-6-3-1024k", [0x10, 6, 0x18, 3, 0x20, 0x80, 0x80, 0x40]),
            ("xor-2-1-64k", [0x08, 1, 0x10, 2, 0x18, 1, 0x20, 0x80, 0x80, 0x04]),
            ("ratis-1", [0x08, 2, 0x10, 1]), ("ratis-3", [0x08, 2, 0x10, 3]),
        ] as [(String, [UInt8])])
    func pinned(text: String, bytes: [UInt8]) throws {
        let config = try ReplicationConfig(text)
        #expect(config.message.encoded == bytes)
        let generated: [UInt8] = try config.message.serializedBytes()
        #expect(generated == bytes)
        #expect(try ReplicationConfig(WireReplication(parsing: bytes)) == config)
        #expect(try ReplicationConfig(WireReplication(serializedBytes: bytes)) == config)
    }

    private func error(_ change: (inout WireReplication) -> Void) -> StoreError? {
        var message = WireReplication()
        change(&message)
        do throws(StoreError) {
            _ = try ReplicationConfig(message)
            return nil
        } catch { return error }
    }

    @Test("a message that stands for no replication is refused with what would be right")
    func refused() {
        #expect(error { _ in }?.code == .invalidArgument)
        #expect(error { $0.codec = .copies }?.code == .invalidArgument)
        let two = error {
            $0.codec = .copies
            $0.data = 2
        }
        #expect(two?.code == .invalidArgument && two?.message.contains("1 or 3") == true)
        // Copies have no parity and no cells.
        for change: (inout WireReplication) -> Void in [{ $0.parity = 1 }, { $0.cellSize = 1024 }] {
            let both = error {
                $0.codec = .copies
                $0.data = 3
                change(&$0)
            }
            #expect(both?.code == .invalidArgument)
        }
        let huge = error {
            $0.data = .max
            $0.parity = .max
            $0.cellSize = .max
        }
        #expect(huge?.code == .invalidArgument)
        #expect(error { $0.codec = .UNRECOGNIZED(9) }?.code == .badRequest)
    }

    @Test("a block group of copies has a place for each and holds one block")
    func groups() throws {
        var message = WireGroup()
        message.replication = ReplicationConfig.replicated(.three).message
        message.nodes = Array(repeating: WireAddress(), count: 3)
        message.length = 256 << 20
        let group = try BlockGroup(message)
        #expect(group.replication == .replicated(.three) && group.nodes.count == 3)
        #expect(try BlockGroup(group.message) == group)
        message.length += 1
        #expect(throws: StoreError.self) { try BlockGroup(message) }
        message.length = 1
        message.nodes.append(WireAddress())
        #expect(throws: StoreError.self) { try BlockGroup(message) }
    }
}
