import Bytes
import ContainerFormat
import ContainerStore
import Foundation
import Model
import Reactor
import Synchronization
import Testing
import Transport
import Wire

@testable import Datanode

@Suite("replicas of a datanode", .timeLimit(.minutes(10)))
struct ReplicaTests {
    private let block = BlockID(containerID: ContainerID(5), localID: 1)

    private func call(
        _ rig: Rig, _ method: DatanodeMethod, _ message: [UInt8], payload: Payload? = nil
    ) async -> Result<RPCReply, StoreError> {
        do throws(StoreError) {
            return .success(
                try await rig.datanode.handle(
                    RPCRequest(method: method.rawValue, message: message, payload: payload)))
        } catch { return .failure(error) }
    }

    private func code(_ result: Result<RPCReply, StoreError>) -> StoreError.Code? {
        if case .failure(let error) = result { error.code } else { nil }
    }

    private func write(
        _ rig: Rig, index: UInt32, permission: UInt64, replication: String = "rs-3-2-64k",
        offset: UInt64 = 0
    ) async throws -> Result<RPCReply, StoreError> {
        var request = DNWriteCellRequest()
        request.block = block.message
        request.replication = try ReplicationConfig(replication).message
        request.replicaIndex = index
        request.offset = offset
        request.groupLength = 0
        request.mayCreate = permission
        return await call(rig, .writeCell, request.encoded)
    }

    @Test("no replica is made because a cell came; with SCM's permission for this epoch it is")
    func permission() async throws {
        let rig = try await Rig()
        let epoch = rig.scm.state.withLock { $0.epoch }
        #expect(epoch != 0 && rig.scm.state.withLock { $0.store } != 0)
        #expect(code(try await write(rig, index: 2, permission: 0)) == .noSuchContainer)
        #expect(code(try await write(rig, index: 2, permission: epoch &+ 1)) == .noSuchContainer)
        #expect(await rig.datanode.store.report().isEmpty)
        #expect(code(try await write(rig, index: 2, permission: epoch)) == nil)
        #expect(code(try await write(rig, index: 2, permission: 0)) == nil)
        // Another index of the same container is not here.
        #expect(code(try await write(rig, index: 3, permission: 0)) == .noSuchContainer)
        try await rig.end()
    }

    @Test("a cell of copies is refused as what is not there yet, and makes no replica")
    func copies() async throws {
        let rig = try await Rig()
        let epoch = rig.scm.state.withLock { $0.epoch }
        for replication in ["ratis-1", "ratis-3"] {
            for (offset, permission) in [(0, epoch), (0, 0), (4096, 0)] as [(UInt64, UInt64)] {
                let answer = try await write(
                    rig, index: 1, permission: permission, replication: replication, offset: offset)
                guard case .failure(let error) = answer else {
                    Issue.record("\(replication) was written")
                    continue
                }
                #expect(error.code == .unsupported)
                #expect(error.message.contains("Ratis pipelines"))
            }
        }
        #expect(await rig.datanode.store.report().isEmpty)
        var request = DNWriteCellRequest()
        request.block = block.message
        request.replication.codec = .copies
        request.replication.data = 2
        request.replicaIndex = 1
        #expect(code(await call(rig, .writeCell, request.encoded)) == .invalidArgument)
        try await rig.end()
    }

    @Test("a cell that comes with another replication than its container's is refused")
    func otherReplication() async throws {
        let rig = try await Rig()
        let epoch = rig.scm.state.withLock { $0.epoch }
        #expect(code(try await write(rig, index: 2, permission: epoch)) == nil)
        for (offset, permission) in [(0, 0), (0, epoch), (4096, 0)] as [(UInt64, UInt64)] {
            let answer = try await write(
                rig, index: 2, permission: permission, replication: "rs-6-3-64k", offset: offset)
            #expect(code(answer) == .containerState, "at \(offset)")
        }
        #expect(code(try await write(rig, index: 2, permission: 0)) == nil)
        try await rig.end()
    }

    @Test("a closed container of which there is none is reported so, and gets none")
    func retired() async throws {
        let rig = try await Rig()
        var command = SCMDatanodeCommand()
        command.closeContainer = 5
        rig.scm.state.withLock { [command] in $0.commands = [command] }
        try await rig.until {
            rig.scm.state.withLock { $0.replicas[5]?.state == SCMReplicaState.none }
        }
        let epoch = rig.scm.state.withLock { $0.epoch }
        #expect(code(try await write(rig, index: 2, permission: epoch)) == .containerState)
        try await rig.end()
    }

    @Test("a request that does not say which replica is meant is refused with what is missing")
    func missingIndex() async throws {
        let rig = try await Rig()
        var read = DNReadBlockRequest()
        read.block = block.message
        read.length = 1
        var one = DNBlockRequest()
        one.block = block.message
        var list = DNContainerRequest()
        list.container = 5
        for (method, message) in [
            (DatanodeMethod.readBlock, read.encoded), (.block, one.encoded),
            (.listBlocks, list.encoded),
        ] {
            guard case .failure(let error) = await call(rig, method, message) else {
                Issue.record("\(method) was answered")
                continue
            }
            #expect(error.code == .badRequest && error.message.contains("'replica_index'"))
        }
        #expect(code(try await write(rig, index: 0, permission: 0)) == .badRequest)
        try await rig.end()
    }

    @Test("a store keeps its number as long as no volume of it is missing")
    func storeNumber() async throws {
        let directory = FileManager.default.temporaryDirectory
            .appendingPathComponent("apus-store-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        for name in ["node", "v1", "v2", "v3"] {
            try FileManager.default.createDirectory(
                atPath: "\(directory)/\(name)", withIntermediateDirectories: true)
        }
        func number(_ volumes: [Int]) async throws -> UInt64 {
            try await Task(executorPreference: reactor) {
                var random = SystemRandomNumberGenerator()
                return try await StoreIdentityFiles(reactor: reactor).load(
                    from: "\(directory)/node", volumes: volumes.map { "\(directory)/v\($0)" },
                    using: &random
                ).number
            }.value
        }
        func remove(_ path: String) throws {
            try FileManager.default.removeItem(atPath: "\(directory)/\(path)")
        }
        let first = try await number([1, 2])
        #expect(first != 0)
        #expect(try await number([1, 2]) == first)
        #expect(try await number([2, 3, 1]) == first, "a further volume takes nothing away")
        let without = try await number([1, 3])
        #expect(without != first, "the second is missing")
        #expect(try await number([1, 2, 3]) == without)
        try remove("v1/volume.id")
        let wiped = try await number([1, 2, 3])
        #expect(wiped != without, "the first was emptied")
        try Data("apus-store-id 1\nnonsense\n".utf8)
            .write(to: URL(fileURLWithPath: "\(directory)/node/store.id"))
        let damaged = try await number([1, 2, 3])
        #expect(damaged != wiped)
        try Data("apus-store-id 2\n".utf8)
            .write(to: URL(fileURLWithPath: "\(directory)/node/store.id"))
        let error = await #expect(throws: StoreError.self) { try await number([1, 2, 3]) }
        #expect(error?.code == .versionMismatch && error?.message.contains("version 2") == true)
    }
}
