import Bytes
import MetadataStore
import Model
import Reactor
import Simulator

/// Tables in memory in place of a database, with what a database keeps of them: states that reached
/// its file are found after a kill, and after a power cut what a checkpoint made durable, or a later
/// state.
final class SimulatedTables: TableStore {
    /// What of it changes; on the simulation's thread alone.
    private final class State {
        let tables: InMemoryTables
        var applied: UInt64
        init(_ image: SimulatedMachine.TableImage) {
            tables = InMemoryTables(copying: image.tables)
            applied = image.index
        }
    }

    private struct Context {
        let process: SimulatedProcess
        let simulation: GroupSimulation
        let reactor: Reactor
        var state: State
    }

    private final class Box {
        var context: Context
        init(_ context: Context) { self.context = context }
    }

    private let box: Confined<Box>
    private var context: Context { box.value.context }
    private var state: State { box.value.context.state }

    init(_ process: SimulatedProcess, of simulation: GroupSimulation, on reactor: Reactor) {
        box = Confined(
            Box(
                Context(
                    process: process, simulation: simulation, reactor: reactor,
                    state: State(process.machine.newestTables))))
    }

    var appliedIndex: UInt64 { state.applied }
    var logBytes: Int { 0 }
    func releaseMemory() {}

    private var image: SimulatedMachine.TableImage {
        SimulatedMachine.TableImage(
            index: state.applied, tables: InMemoryTables(copying: state.tables))
    }

    /// Throws once the process is dead, so that nothing of it is seen; waits now and then.
    ///
    /// - Parameter time: on a disk that is well.
    private func pause(_ share: Double, _ time: ClosedRange<Microseconds>) async throws(StoreError)
    {
        if context.simulation.chance.tables.chance(share) {
            let machine = context.process.machine
            let slowness = max(machine.slowness, machine.tablesSlowness)
            let wait = context.simulation.chance.tables.time(in: time) * Microseconds(slowness)
            // Everything is to be well again some time after the faults.
            try? await context.reactor.sleep(
                for: .microseconds(min(wait, GroupSimulation.Limits.tablesTime)))
        }
        try isAlive()
    }

    private func isAlive() throws(StoreError) {
        guard !context.process.isDead, context.process.doom == nil else {
            throw StoreError(.io, "the process is dead")
        }
    }

    /// Something is to be durable: the process may die of that, and more often by `share`.
    private func persist(share: Double = 0) throws(StoreError) {
        try isAlive()
        guard !context.simulation.diesAtPersistPoint(context.process, share: share) else {
            throw StoreError(.io, "the process is dead")
        }
    }

    func apply(
        _ count: Int, through index: UInt64,
        _ step: @Sendable @escaping (_ number: Int, _ tables: StoredTables) -> Void
    ) async throws(StoreError) {
        precondition(index >= appliedIndex, "commands are applied in order")
        try await pause(0.3, 10...5_000)
        if context.process.machine.isFull, context.simulation.chance.tables.chance(0.1) {
            throw StoreError(.noSpace, "no space left for the tables")
        }
        let view = StoredTables(over: state.tables, isReadOnly: false)
        for number in 0..<count { step(number, view) }
        view.commit()
        state.applied = index
        context.simulation.tablesApplied(state.tables, through: index, context.process)
        if context.simulation.chance.tables.chance(0.2) {
            context.process.machine.flushedTables.append(image)
        }
    }

    func read<R: Sendable>(
        _ body: @Sendable @escaping (StoredTables) throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        try await readStored(body)
    }

    func readStored<R: Sendable>(
        _ body: @Sendable @escaping (StoredTables) throws(StoreError) -> R
    ) async throws(StoreError) -> R {
        try await pause(0.3, 10...2_000)
        return try body(StoredTables(over: state.tables, isReadOnly: true))
    }

    func checkpoint() async throws(StoreError) -> UInt64? {
        let image = image
        context.process.machine.flushedTables.append(image)
        try persist()
        try await pause(1, 100...20_000)
        if context.simulation.chance.tables.chance(0.05) { return nil }
        let machine = context.process.machine
        // A snapshot that took the tables' place meanwhile is newer, and durable.
        if machine.durableTables.index < image.index { machine.durableTables = image }
        machine.flushedTables.removeAll { $0.index <= image.index }
        return image.index
    }

    func copy(to path: String) async throws(StoreError) -> UInt64 {
        let image = image
        try await pause(1, 100...context.simulation.scenario.copyTime)
        do throws(IOError) {
            let file = try await File.open(
                path, [.write, .create, .exclusive], on: context.reactor)
            let bytes = image.encoded
            try await file.write(
                Payload(copying: bytes, pool: context.reactor.pool), at: 0)
            try await file.close()
        } catch {
            throw StoreError(error.isNoSpace ? .noSpace : .io, "\(error)")
        }
        return image.index
    }

    func replace(with path: String, index: UInt64) async throws(StoreError) {
        let bytes: [UInt8]
        do throws(IOError) {
            let file = try await File.open(path, [.read], on: context.reactor)
            let size = try await file.size()
            let buffer = context.reactor.pool.allocate(max(1, size))
            let count = try await file.read(into: buffer, 0..<size, at: 0)
            bytes = Array(buffer.bytes(in: 0..<count))
            try await file.close()
        } catch {
            throw StoreError(error.isShortage ? .overloaded : .io, "\(error)")
        }
        guard let image = SimulatedMachine.TableImage(decoding: bytes) else {
            throw StoreError(.corrupt, "the copy \(path) cannot be read")
        }
        guard image.index == index else {
            throw StoreError(
                .corrupt, "the copy \(path) has applied \(image.index), it should be \(index)")
        }
        // The log knows of the snapshot, and the tables are not its yet.
        let crash = context.simulation.scenario.installCrash
        try persist(share: crash)
        try await pause(1, 100...20_000)
        context.process.machine.durableTables = image
        context.process.machine.flushedTables = []
        box.value.context.state = State(image)
        context.simulation.snapshotInstalled()
        context.simulation.tablesApplied(state.tables, through: index, context.process)
        try persist(share: crash / 4)
    }

    func close() async throws(StoreError) {
        guard !context.process.isDead, context.process.doom == nil else { return }
        context.process.machine.flushedTables.append(image)
    }
}

extension SimulatedMachine.TableImage {
    /// Tables of the application, of the sessions and of the members' book.
    private static let tables = (0...255 as ClosedRange<UInt8>).map { MetadataTable($0) }

    /// The index, then each record: table, key and value with their lengths.
    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(index)
        for table in Self.tables {
            for (key, value) in tables.dump(table) {
                bytes.append(table.rawValue)
                bytes.appendBigEndian(UInt32(key.count))
                bytes.appendBigEndian(UInt32(value.count))
                bytes += key
                bytes += value
            }
        }
        return bytes
    }

    /// nil if the bytes are none.
    init?(decoding bytes: [UInt8]) {
        guard bytes.count >= 8 else { return nil }
        index = bytes.bigEndian(at: 0)
        tables = InMemoryTables()
        var at = 8
        while at < bytes.count {
            guard bytes.count - at >= 9 else { return nil }
            let table = MetadataTable(bytes[at])
            let keyCount = Int(bytes.bigEndian(at: at + 1, as: UInt32.self))
            let valueCount = Int(bytes.bigEndian(at: at + 5, as: UInt32.self))
            at += 9
            guard bytes.count - at >= keyCount + valueCount else { return nil }
            tables.put(
                table, Array(bytes[at..<at + keyCount]),
                Array(bytes[at + keyCount..<at + keyCount + valueCount]))
            at += keyCount + valueCount
        }
    }

    /// Equal for equal tables.
    static func digest(of tables: InMemoryTables) -> UInt64 {
        var digest = Digest()
        for table in Self.tables {
            for (key, value) in tables.dump(table) {
                digest.add(UInt64(table.rawValue))
                digest.add(key)
                digest.add(value)
            }
        }
        return digest.value
    }
}
