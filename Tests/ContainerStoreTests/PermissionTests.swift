import Bytes
import Model
import Reactor
import Testing

@testable import ContainerStore

@Suite("which replicas may be made, and which one is meant") struct PermissionTests {
    private let id = ContainerID(1)

    private func make(
        _ store: ContainerStore, _ id: ContainerID, permission: UInt64
    ) async -> StoreError? {
        await refusal {
            try await store.createContainer(
                id, replication: replication, replicaIndex: 2, permission: permission)
        }
    }

    @Test("a replica is made with the permission of this epoch alone, and is then there without")
    func permission() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            #expect(await make(store, id, permission: 0)?.code == .noSuchContainer)
            #expect(await make(store, id, permission: 7)?.code == .noSuchContainer)
            store.begin(epoch: 7)
            #expect(await make(store, id, permission: 8)?.code == .noSuchContainer)
            #expect(await store.report().isEmpty)
            #expect(await make(store, id, permission: 7) == nil)
            #expect(await make(store, id, permission: 0) == nil)
            #expect(await store.report().count == 1)
            try await store.close()
        }
    }

    @Test("a container that was retired gets no replica; one that is there is closed")
    func retired() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            store.begin(epoch: 7)
            try await store.retireContainer(id)
            #expect(store.retiredContainers == [id])
            #expect(await make(store, id, permission: 7)?.code == .containerState)
            let other = ContainerID(2)
            #expect(await make(store, other, permission: 7) == nil)
            try await store.retireContainer(other)
            #expect(await store.report().map(\.state) == [.closed])
            #expect(store.retiredContainers == [id])
            // Removed because it is empty: a writer that comes late does not begin it anew.
            try await store.deleteEmptyContainer(other)
            #expect(await make(store, other, permission: 7)?.code == .containerState)
            try await store.close()
        }
    }

    @Test("retiring a container waits for a replica that is being made, and closes it")
    func race() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            store.begin(epoch: 7)
            async let made = make(store, id, permission: 7)
            async let retired: Void = store.retireContainer(id)
            let error = await made
            try await retired
            let states = await store.report().map(\.state)
            #expect(error == nil ? states == [.closed] : states.isEmpty)
            try await store.close()
        }
    }

    @Test("with too many retired containers a new epoch begins, which takes permissions back")
    func overflow() {
        var permissions = ReplicaPermissions()
        permissions.begin(7)
        for number in 0..<ReplicaPermissions.Limits.retired {
            permissions.retire(ContainerID(UInt64(number)))
        }
        #expect(permissions.epoch == 7)
        permissions.retire(ContainerID(1 << 40))
        #expect(permissions.epoch == 8 && permissions.retired == [ContainerID(1 << 40)])
    }

    @Test("whatever names another replica than the one that is here is refused as not here")
    func otherIndex() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(id, replication: replication, replicaIndex: 2)
            try await store.append(cell(blockID(1), at: 0, [1, 2, 3]))
            for index in [0, 1, 3] {
                var stray = cell(blockID(2), at: 0, [1])
                stray.replicaIndex = index
                let errors = [
                    await refusal { try await store.append(stray, .client) },
                    await refusal {
                        try await store.read(blockID(1), replicaIndex: index, 0..<1)
                    },
                    await refusal { try await store.block(blockID(1), replicaIndex: index) },
                    await refusal {
                        try await store.blocks(in: id, replicaIndex: index, limit: 1)
                    },
                ]
                for error in errors {
                    #expect(error?.code == .noSuchContainer)
                    #expect(error?.message.contains("replica 2 of container") == true)
                }
            }
            let read = try await store.read(blockID(1), replicaIndex: 2, 0..<3)
            #expect(read.payload.count == 3)
            try await store.close()
        }
    }

    @Test("blocks are listed in pages, of an open container as of a closed one")
    func pages() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(id, replication: replication, replicaIndex: 2)
            for localID in 1...10 as ClosedRange<UInt64> {
                try await store.append(cell(blockID(localID * 3), at: 0, [1], ended: true))
            }
            try await store.deleteBlocks([blockID(6)])
            let expected = (1...10 as ClosedRange<UInt64>).map { $0 * 3 }.filter { $0 != 6 }
            for isClosed in [false, true] {
                if isClosed { try await store.closeContainer(id) }
                for limit in [1, 3, 9, 100] {
                    let found = try await store.blocks(in: id, pageOf: limit)
                    #expect(found.map(\.id.localID) == expected, "closed: \(isClosed)")
                }
                let last = try await store.blocks(in: id, replicaIndex: 2, after: 29, limit: 1)
                #expect(last.records.map(\.id.localID) == [30] && !last.hasMore)
                let none = try await store.blocks(in: id, replicaIndex: 2, after: 30, limit: 1)
                #expect(none.records.isEmpty && !none.hasMore)
            }
            try await store.close()
        }
    }
}
