import Model
import Simulator

/// What a client of a simulated group asks for.
struct RegisterCommand: Equatable, Sendable {
    var client: UInt16
    var sequence: UInt64
    var register: UInt32
    var request: RegisterOperation.Request
    /// Bytes that only make the command longer.
    var padding = 0
}

/// The application of a simulated group: registers.
struct RegisterMachine: StateMachine {
    static let registers = MetadataTable(100)

    /// Told of each command that is carried out, with its index. It may be told again.
    let carriedOut: @Sendable (RegisterCommand, UInt64) -> Void

    var tables: [MetadataTable] { [Self.registers] }
    var format: TablesFormat { .first }

    func encode(_ command: RegisterCommand) -> [UInt8] {
        var bytes: [UInt8] = [1]
        bytes.appendBigEndian(command.client)
        bytes.appendBigEndian(command.sequence)
        bytes.appendBigEndian(command.register)
        switch command.request {
        case .read: bytes.append(0)
        case .write(let value):
            bytes.append(1)
            bytes.appendBigEndian(value)
        case .swap(let from, let to):
            bytes.append(2)
            bytes.appendBigEndian(from)
            bytes.appendBigEndian(to)
        }
        return bytes + [UInt8](repeating: 0, count: command.padding)
    }

    func decode(_ bytes: [UInt8]) throws(StoreError) -> RegisterCommand {
        guard bytes.count >= 16, bytes[0] == 1 else { throw Self.damaged(bytes) }
        let request: RegisterOperation.Request
        var end = 16
        switch bytes[15] {
        case 0: request = .read
        case 1 where bytes.count >= 20:
            request = .write(bytes.bigEndian(at: 16))
            end = 20
        case 2 where bytes.count >= 24:
            request = .swap(from: bytes.bigEndian(at: 16), to: bytes.bigEndian(at: 20))
            end = 24
        default: throw Self.damaged(bytes)
        }
        return RegisterCommand(
            client: bytes.bigEndian(at: 1), sequence: bytes.bigEndian(at: 3),
            register: bytes.bigEndian(at: 11), request: request, padding: bytes.count - end)
    }

    private static func damaged(_ bytes: [UInt8]) -> StoreError {
        StoreError(.corrupt, "a command of \(bytes.count) bytes cannot be read")
    }

    func apply(
        _ command: RegisterCommand, at index: UInt64, in transaction: some MetadataTransaction
    ) -> RegisterOperation.Answer {
        carriedOut(command, index)
        let old = Self.value(of: command.register, in: transaction)
        switch command.request {
        case .read: return .value(old)
        case .write(let value):
            Self.set(command.register, to: value, in: transaction)
            return .written
        case .swap(let from, let to):
            if old == from { Self.set(command.register, to: to, in: transaction) }
            return .observed(old)
        }
    }

    private static func key(_ register: UInt32) -> [UInt8] {
        var key: [UInt8] = []
        key.appendBigEndian(register)
        return key
    }

    static func value(of register: UInt32, in tables: some MetadataReader) -> UInt32 {
        tables.get(registers, key(register))?.bigEndian(at: 0) ?? 0
    }

    private static func set(
        _ register: UInt32, to value: UInt32, in tables: some MetadataTransaction
    ) {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(value)
        tables.put(registers, key(register), bytes)
    }

    func encode(_ answer: RegisterOperation.Answer, to command: RegisterCommand) -> [UInt8] {
        var bytes: [UInt8] = []
        switch answer {
        case .value(let value):
            bytes.append(0)
            bytes.appendBigEndian(value)
        case .written: bytes.append(1)
        case .observed(let value):
            bytes.append(2)
            bytes.appendBigEndian(value)
        }
        return bytes
    }

    func decode(answer bytes: [UInt8]) throws(StoreError) -> RegisterOperation.Answer {
        switch bytes.first {
        case 0 where bytes.count == 5: return .value(bytes.bigEndian(at: 1))
        case 1 where bytes.count == 1: return .written
        case 2 where bytes.count == 5: return .observed(bytes.bigEndian(at: 1))
        default: throw Self.damaged(bytes)
        }
    }

    func applied(_ command: RegisterCommand, answer: RegisterOperation.Answer, at index: UInt64) {}

    func reset(from tables: some MetadataReader) throws(StoreError) {}
}
