import Bytes
import ContainerFormat
import Model
import Reactor
import Testing

@testable import ContainerStore

@Suite struct VolumeTests {
    let cluster = ClusterID(high: 7, low: 7)

    @Test("a store remembers its cluster and refuses another")
    func cluster() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, volumes: 2)
            #expect(store.cluster == nil)
            try await store.adopt(cluster: cluster)
            try await store.adopt(cluster: cluster)
            #expect(store.cluster == cluster)
            let other = ClusterID(high: 8, low: 8)
            #expect(
                await refusal { try await store.adopt(cluster: other) }?.code == .invalidArgument)
            try await store.close()
            // A third, empty volume joins the others' cluster.
            let again = try await openStore(directory, on: reactor, volumes: 3)
            #expect(again.cluster == cluster)
            try await again.close()
            let error = await refusal {
                try await openStore(directory, on: reactor, volumes: 3, cluster: other)
            }
            #expect(error?.code == .invalidArgument)
            #expect(error?.message.contains("\(directory)/v1") == true)
            let text = String(decoding: try contents(of: "\(directory)/v3/VERSION"), as: UTF8.self)
            #expect(text.contains("cluster \(cluster)"))
        }
    }

    @Test("volumes of another datanode, of a newer program, and other people's folders are refused")
    func refused() async throws {
        try await withReactor { directory, reactor in
            try await openStore(directory, on: reactor).close()
            let stranger = await refusal {
                try await ContainerStore.open(
                    volumes: ["\(directory)/v1"], datanode: DatanodeID(high: 9, low: 9),
                    cluster: nil, options: .small, reactors: [reactor])
            }
            #expect(stranger?.code == .invalidArgument)
            #expect(stranger?.message.contains(thisDatanode.description) == true)
            try makeDirectory("\(directory)/v2")
            try replaceContents(of: "\(directory)/v2/thesis.txt", with: [1])
            let folder = await refusal {
                try await openStore(directory, on: reactor, volumes: 2)
            }
            #expect(folder?.code == .invalidArgument)
            #expect(folder?.message.contains("thesis.txt") == true)
            #expect(try names(in: "\(directory)/v2") == ["thesis.txt"])
            try replaceContents(of: "\(directory)/v1/VERSION", with: Array("apus-volume 3\n".utf8))
            #expect(
                await refusal { try await openStore(directory, on: reactor) }?.code == .corrupt)
        }
    }

    @Test("a volume that is in use is refused until it is closed")
    func inUse() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            let second = await refusal { try await openStore(directory, on: reactor) }
            #expect(second?.code == .invalidArgument)
            #expect(second?.message.contains("in use") == true)
            try await store.close()
            try await openStore(directory, on: reactor).close()
        }
    }

    @Test("a while after the last append a mark stands behind its record")
    func marks() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            try await store.append(cell(blockID(1), at: 0, [1, 2, 3]))
            let path = "\(directory)/v1/containers/container-1.journal"
            var records: [JournalRecord] = []
            for _ in 0..<50 where records.last != .mark {
                try await reactor.sleep(for: .milliseconds(100))
                records = try parseJournal(try contents(of: path)).records
            }
            #expect(records.count == 2 && records.last == .mark)
        }
    }

    @Test("the same container is made once, another of its number is refused")
    func create() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            let id = ContainerID(1)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<5 {
                    group.addTask {
                        try await store.createContainer(
                            id, replication: replication, replicaIndex: 1)
                    }
                }
                try await group.waitForAll()
            }
            let other = await refusal {
                try await store.createContainer(id, replication: replication, replicaIndex: 2)
            }
            #expect(other?.code == .containerState)
            let index = await refusal {
                try await store.createContainer(
                    ContainerID(2), replication: replication, replicaIndex: 6)
            }
            #expect(index?.code == .invalidArgument)
            #expect(await store.report().count == 1)
        }
    }

    @Test("containers are spread over the volumes")
    func spread() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, volumes: 3)
            for id in 1...9 as ClosedRange<UInt64> {
                try await store.createContainer(
                    ContainerID(id), replication: replication, replicaIndex: 1)
            }
            for volume in 1...3 {
                #expect(try names(in: "\(directory)/v\(volume)/containers").count == 6)
            }
        }
    }

    @Test("a full volume closes its containers, keeps what it acknowledged and takes no new ones")
    func full() async throws {
        try await withReactor { directory, reactor in
            var options = ContainerStore.Options.small
            options.volumeLimitBytes = 3 << 20
            let store = try await openStore(directory, on: reactor, options: options)
            for id in [1, 2] as [UInt64] {
                try await store.createContainer(
                    ContainerID(id), replication: replication, replicaIndex: 1)
            }
            try await store.append(cell(blockID(1, in: 2), at: 0, pattern(5000, seed: 77)))
            var stored = 0
            var refused: StoreError?
            while refused == nil, stored < 200 {
                let part = stored
                refused = await refusal {
                    try await store.append(
                        cell(
                            blockID(1), at: part * 65_536, pattern(65_536, seed: UInt64(part))))
                }
                if refused == nil { stored += 1 }
            }
            #expect(refused?.code == .containerState || refused?.code == .noSpace)
            #expect(stored >= 20 && stored < 60, "\(stored) cells fitted into 3 MiB")
            // The closes run beside; asking for them waits.
            for id in [1, 2] as [UInt64] { try await store.closeContainer(ContainerID(id)) }
            #expect(await store.report().map(\.state) == [.closed, .closed])
            // What was allocated ahead has been given back; that is room for few.
            var another: StoreError?
            for id in 10...20 as ClosedRange<UInt64> where another == nil {
                another = await refusal {
                    try await store.createContainer(
                        ContainerID(id), replication: replication, replicaIndex: 1)
                }
            }
            #expect(another?.code == .noSpace)
            #expect(
                try await store.bytes(of: blockID(1))
                    == (0..<stored).flatMap { pattern(65_536, seed: UInt64($0)) })
            #expect(try await store.bytes(of: blockID(1, in: 2)) == pattern(5000, seed: 77))
            // Deleting makes room.
            try await store.deleteContainer(ContainerID(1))
            try await store.createContainer(
                ContainerID(3), replication: replication, replicaIndex: 1)
        }
    }

    @Test("space that was asked for ahead and refused does not count as used")
    func refusedSpace() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 3)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            try await Task(executorPreference: reactor) {
                let store = try await openStore(directory, on: reactor)
                try await store.createContainer(
                    ContainerID(1), replication: replication, replicaIndex: 1)
                let before = await store.volumes()[0].used
                faults.set(isFull: true)
                // Beyond half of the extent of 256 KiB the next one is asked for.
                for part in 0..<4 {
                    try await store.append(
                        cell(
                            blockID(1), at: part * 65_536, pattern(65_536, seed: UInt64(part))))
                }
                // Waits for the allocation, as for all that is on its way.
                let container = try store.container(ContainerID(1))
                await container.untilIdle()
                #expect(await store.volumes()[0].used - before < 256 << 10)
                faults.set(isFull: false)
                try await store.close()
            }.value
        }
    }

    @Test("a volume that is not at its path any more is taken out, and nothing is written there")
    func gone() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, volumes: 2)
            for id in [1, 2] as [UInt64] {
                try await store.createContainer(
                    ContainerID(id), replication: replication, replicaIndex: 1)
            }
            for id in [1, 2] as [UInt64] { try await store.closeContainer(ContainerID(id)) }
            let before = await store.volumes()
            #expect(before.map(\.isFailed) == [false, false])
            // What is left of a disk that is not mounted any more.
            try move("\(directory)/v1", to: "\(directory)/away")
            try makeDirectory("\(directory)/v1")
            let after = await store.volumes()
            #expect(after.map(\.isFailed) == [true, false])
            #expect(after[0].reason?.contains("still mounted") == true)
            #expect(after[0].available == 0 && after[0].capacity == before[0].capacity)
            #expect(await store.report().count { $0.state == .lost } == 1)
            try await store.close()
            #expect(try names(in: "\(directory)/v1").isEmpty)
        }
    }

    @Test("a volume whose disk fails is taken out and the store goes on with the other")
    func failing() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 3)
            let good = try Reactor.start()
            let bad = try Reactor.start(.init(backend: .faulty(faults)))
            defer {
                good.stop()
                bad.stop()
            }
            try await Task(executorPreference: good) {
                let store = try await ContainerStore.open(
                    volumes: ["\(directory)/a", "\(directory)/b"], datanode: thisDatanode,
                    cluster: nil, options: .small, reactors: [good, bad])
                for id in [1, 2] as [UInt64] {
                    try await store.createContainer(
                        ContainerID(id), replication: replication, replicaIndex: 1)
                    try await store.append(cell(blockID(1, in: id), at: 0, [UInt8(id)]))
                }
                faults.set(rates: .init(error: 1))
                var codes: [StoreError.Code?] = []
                for id in [1, 2] as [UInt64] {
                    codes.append(
                        await refusal {
                            try await store.append(cell(blockID(2, in: id), at: 0, [9]))
                        }?.code)
                }
                #expect(codes.sorted { $0 == nil && $1 != nil } == [nil, .io])
                let reports = await store.volumes()
                #expect(reports.map(\.isFailed) == [false, true])
                #expect(reports[1].reason?.contains("\(directory)/b") == true)
                #expect(reports[1].available == 0)
                let states = await store.report().map(\.state)
                #expect(states.count { $0 == .lost } == 1 && states.count == 2)
                let absent = try await store.deleteBlocks([blockID(1), blockID(1, in: 2)])
                #expect(Array(absent.values) == [.volumeFailed])
                // New containers go to the volume that works.
                for id in 3...5 as ClosedRange<UInt64> {
                    try await store.createContainer(
                        ContainerID(id), replication: replication, replicaIndex: 1)
                }
                #expect(await store.report().count { $0.state == .open } == 4)
                try await store.close()
            }.value
        }
    }
}

/// On a file system that is really full. `APUS_TEST_SMALL_DISK` names a directory on one of about
/// 24 MiB, for example an image mounted by a loop device; without it the test is left out.
@Suite(.enabled(if: environment("APUS_TEST_SMALL_DISK") != nil)) struct SmallDiskTests {
    @Test("a disk without a free block closes containers and keeps all that was acknowledged")
    func full() async throws {
        let disk = environment("APUS_TEST_SMALL_DISK") ?? ""
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        for reserved in [2 << 20, 0] {
            let directory = "\(disk)/apus-\(reserved)"
            try makeDirectory(directory)
            try await Task(executorPreference: reactor) {
                var options = ContainerStore.Options.small
                options.reservedBytes = reserved
                let store = try await openStore(directory, on: reactor, options: options)
                for id in [1, 2] as [UInt64] {
                    try await store.createContainer(
                        ContainerID(id), replication: replication, replicaIndex: 1)
                }
                var stored: [UInt64: Int] = [:]
                var errors: [StoreError.Code] = []
                for round in 0..<600 where errors.count < 8 {
                    let id = UInt64(round % 2 + 1)
                    let part = stored[id] ?? 0
                    let error = await refusal {
                        try await store.append(
                            cell(
                                blockID(1, in: id), at: part * 65_536,
                                pattern(65_536, seed: UInt64(part) << 8 | id)))
                    }
                    if let error { errors.append(error.code) } else { stored[id] = part + 1 }
                }
                #expect(errors.count == 8)
                #expect(errors.allSatisfy { $0 == .noSpace || $0 == .containerState }, "\(errors)")
                for id in [1, 2] as [UInt64] where reserved > 0 {
                    try await store.closeContainer(ContainerID(id))
                }
                #expect(await store.volumes().allSatisfy { !$0.isFailed })
                try await store.close()
                let again = try await openStore(directory, on: reactor, options: options)
                for (id, count) in stored {
                    let length = try await again.block(blockID(1, in: id)).length
                    #expect(length >= count * 65_536)
                    let bytes = try await again.read(blockID(1, in: id), 0..<count * 65_536)
                    #expect(
                        bytes.payload.withBytes { Array($0) }
                            == (0..<count).flatMap { pattern(65_536, seed: UInt64($0) << 8 | id) })
                }
                for id in [1, 2] as [UInt64] { try await again.deleteContainer(ContainerID(id)) }
                try await again.close()
            }.value
            try removeFile(directory)
        }
    }
}
