import Bytes
import Model
import Reactor
import Testing

@testable import ContainerStore

/// The store as a dictionary: what each container holds.
private struct Reference {
    struct Block {
        var bytes: [UInt8] = []
        var groupLength = 0
        var isEnded = false
    }
    struct Container {
        var blocks: [UInt64: Block] = [:]
        var deleted: Set<UInt64> = []
        var isClosed = false
    }
    var containers: [UInt64: Container] = [:]
}

@Suite struct ModelTests {
    @Test(
        "any sequence of operations does what a dictionary would",
        arguments: 1...12 as ClosedRange<UInt64>)
    func sequence(seed: UInt64) async throws {
        try await withDirectory { directory in
            var random = SplitMix64(state: seed)
            var model = Reference()
            var reactor = try Reactor.start()
            var store = try await open(directory, reactor)
            for _ in 0..<250 {
                let id = UInt64.random(in: 1...4, using: &random)
                let localID = UInt64.random(in: 1...6, using: &random)
                switch Int.random(in: 0..<100, using: &random) {
                case 0..<8: try await create(store, id, &model)
                case 8..<58: try await append(store, id, localID, &model, &random)
                case 58..<80: try await read(store, id, localID, model, &random)
                case 80..<88: try await delete(store, id, localID, &model)
                case 88..<92: try await close(store, id, &model)
                case 92..<94:
                    try await store.deleteContainer(ContainerID(id))
                    model.containers[id] = nil
                default:
                    if Bool.random(using: &random) { try await store.close() }
                    // Otherwise as if the process had died.
                    reactor.stop()
                    reactor = try Reactor.start()
                    store = try await open(directory, reactor)
                }
            }
            try await compare(store, model)
            try await store.close()
            try await compare(try await open(directory, reactor), model)
            reactor.stop()
        }
    }

    private func open(
        _ directory: String, _ reactor: Reactor
    ) async throws(StoreError) -> ContainerStore {
        try await openStore(directory, on: reactor, volumes: 2, options: .mortal)
    }

    private func create(
        _ store: ContainerStore, _ id: UInt64, _ model: inout Reference
    ) async throws {
        try await store.createContainer(
            ContainerID(id), replication: replication, replicaIndex: 4)
        if model.containers[id] == nil { model.containers[id] = .init() }
    }

    private func append(
        _ store: ContainerStore, _ id: UInt64, _ localID: UInt64, _ model: inout Reference,
        _ random: inout SplitMix64
    ) async throws {
        let block = model.containers[id]?.blocks[localID] ?? .init()
        let count = [0, 1, 16_384, 65_536, 40_000].randomElement(using: &random) ?? 0
        let isEnded = Int.random(in: 0..<6, using: &random) == 0
        let bytes = pattern(count, seed: random.next())
        let group = Int.random(in: 0..<1_000_000, using: &random)
        let wrong = Int.random(in: 0..<8, using: &random) == 0 ? 16_384 : 0
        let asked = cell(
            blockID(localID, in: id), at: block.bytes.count + wrong, bytes, group: group,
            ended: isEnded)
        var code: StoreError.Code?
        if model.containers[id] == nil {
            code = .noSuchContainer
        } else if model.containers[id]?.isClosed == true {
            code = .containerState
        } else if model.containers[id]?.deleted.contains(localID) == true {
            code = .noSuchBlock
        } else if wrong > 0 || (block.isEnded && !(count == 0 && isEnded))
            || (count > 0 && block.bytes.count % 16_384 != 0)
        {
            code = .badRequest
        }
        let error = await refusal {
            let length = try await store.append(asked)
            #expect(length == block.bytes.count + count)
        }
        #expect(error?.code == code, "\(String(describing: error))")
        guard code == nil else { return }
        model.containers[id]?.blocks[localID] = .init(
            bytes: block.bytes + bytes, groupLength: group, isEnded: isEnded)
    }

    private func read(
        _ store: ContainerStore, _ id: UInt64, _ localID: UInt64, _ model: Reference,
        _ random: inout SplitMix64
    ) async throws {
        let block = blockID(localID, in: id)
        guard let expected = model.containers[id]?.blocks[localID] else {
            let code = await refusal { try await store.read(block, 0..<1) }?.code
            #expect(code == (model.containers[id] == nil ? .noSuchContainer : .noSuchBlock))
            return
        }
        let end = Int.random(in: 0...expected.bytes.count, using: &random)
        let start = Int.random(in: 0...end, using: &random)
        let read = try await store.read(block, start..<end)
        #expect(read.range.lowerBound <= start && read.range.upperBound >= end)
        #expect(read.payload.withBytes { Array($0) } == Array(expected.bytes[read.range]))
    }

    private func delete(
        _ store: ContainerStore, _ id: UInt64, _ localID: UInt64, _ model: inout Reference
    ) async throws {
        try await store.deleteBlocks([blockID(localID, in: id), blockID(localID + 50, in: id)])
        if localID % 3 == 0 { await store.reclaim() }
        if model.containers[id]?.blocks.removeValue(forKey: localID) != nil {
            model.containers[id]?.deleted.insert(localID)
        }
    }

    private func close(
        _ store: ContainerStore, _ id: UInt64, _ model: inout Reference
    ) async throws {
        let code = await refusal { try await store.closeContainer(ContainerID(id)) }?.code
        #expect(code == (model.containers[id] == nil ? .noSuchContainer : nil))
        model.containers[id]?.isClosed = true
    }

    private func compare(_ store: ContainerStore, _ model: Reference) async throws {
        let reports = await store.report()
        #expect(reports.map(\.id.rawValue) == model.containers.keys.sorted())
        for report in reports {
            let container = model.containers[report.id.rawValue] ?? .init()
            #expect(report.state == (container.isClosed ? .closed : .open))
            #expect(report.blockCount == container.blocks.count)
            #expect(report.usedBytes == container.blocks.values.reduce(0) { $0 + $1.bytes.count })
            let records = try await store.blocks(in: report.id)
            #expect(records.map(\.id.localID) == container.blocks.keys.sorted())
            for record in records {
                let block = container.blocks[record.id.localID] ?? .init()
                #expect(record.length == block.bytes.count)
                #expect(record.groupLength == block.groupLength)
                #expect(record.isEnded == block.isEnded)
                #expect(try await store.bytes(of: record.id) == block.bytes)
            }
        }
    }
}
