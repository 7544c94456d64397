import Bytes
import ContainerFormat
import Eventually
import Glibc
import Model
import Reactor
import Synchronization
import Testing

@testable import ContainerStore

/// What a container or a volume does when something is used up.
@Suite("Bounds of containers and volumes") struct BoundsTests {
    private let one = ContainerID(1)

    /// Runs `body` with a store on a reactor whose faults the injector makes.
    private func withFaults(
        _ options: ContainerStore.Options = .small, volumes: Int = 1,
        _ body: @escaping @Sendable (ContainerStore, FaultInjector, Reactor) async throws -> Void
    ) async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 11)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            try await Task(executorPreference: reactor) {
                let store = try await openStore(
                    directory, on: reactor, volumes: volumes, options: options)
                try await store.createContainer(
                    ContainerID(1), replication: replication, replicaIndex: 1)
                try await body(store, faults, reactor)
                try await store.close()
            }.value
        }
    }

    private func until(
        _ reactor: Reactor, _ condition: () async throws -> Bool
    ) async throws {
        try await eventually("what the store does by itself", condition)
    }

    @Test(
        "a container of many small blocks asks to be closed, then takes no more and closes itself")
    func manyBlocks() async throws {
        var options = ContainerStore.Options.small
        options.blocksToClose = 10
        try await withFaults(options) { store, _, reactor in
            for number in 1...9 as ClosedRange<UInt64> {
                try await store.append(cell(blockID(number), at: 0, [1], ended: true))
            }
            #expect(await store.report()[0].state == .open)
            try await store.append(cell(blockID(10), at: 0, [1], ended: true))
            #expect(await store.report()[0].state == .closing)
            for number in 11...20 as ClosedRange<UInt64> {
                try await store.append(cell(blockID(number), at: 0, [1], ended: true))
            }
            let refused = await refusal {
                try await store.append(cell(blockID(21), at: 0, [1], ended: true))
            }
            #expect(refused?.code == .containerState)
            try await until(reactor) { await store.report()[0].state == .closed }
            #expect(await store.report()[0].blockCount == 20)
            #expect(try await store.bytes(of: blockID(20)) == [1])
        }
    }

    @Test("padding, deleted bytes and the journal count as well")
    func waste() async throws {
        var options = ContainerStore.Options.small
        options.wasteToClose = 64 << 10
        try await withFaults(options) { store, _, _ in
            for number in 1...20 as ClosedRange<UInt64> {
                try await store.append(cell(blockID(number), at: 0, [1], ended: true))
            }
            #expect(await store.report()[0].state == .closing)
        }
        options = .small
        options.journalBytesToClose = 8 << 10
        try await withFaults(options) { store, _, _ in
            for number in 1...80 as ClosedRange<UInt64> {
                try await store.append(cell(blockID(number), at: 0, [1], ended: true))
            }
            #expect(await store.report()[0].state == .closing)
        }
    }

    @Test("a journal that is too long is refused and not cut", arguments: [false, true])
    func longJournal(isClosed: Bool) async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(one, replication: replication, replicaIndex: 1)
            for number in 1...200 as ClosedRange<UInt64> {
                try await store.append(cell(blockID(number), at: 0, [1], ended: true))
            }
            if isClosed {
                try await store.closeContainer(one)
                try await store.deleteBlocks((1...199).map { blockID($0) })
                await store.reclaim()
            }
            try await store.close()
            let path = "\(directory)/v1/containers/container-1.journal"
            let before = try contents(of: path)
            var options = ContainerStore.Options.small
            options.journalReadBytes = 8192
            #expect(before.count > 8192)
            let again = try await openStore(directory, on: reactor, options: options)
            let problems = await again.volumes()[0].problems
            #expect(problems.count == 1 && problems[0].contains("\(before.count) bytes"))
            #expect(await again.report().map(\.state) == [.lost])
            let error = await refusal {
                try await again.createContainer(one, replication: replication, replicaIndex: 1)
            }
            #expect(error?.code == .containerState)
            try await again.close()
            #expect(try contents(of: path) == before)
            let whole = try await openStore(directory, on: reactor)
            #expect(try await whole.bytes(of: blockID(200)) == [1])
            try await whole.close()
        }
    }

    @Test(
        "what the process lacks for a while takes no volume out, and appends wait for it",
        arguments: [EMFILE, ENFILE, ENOMEM, EAGAIN, ENOBUFS],
        [FaultInjector.Operation.synchronize, .write])
    func resources(code: Int32, operation: FaultInjector.Operation) async throws {
        try await withFaults { store, faults, reactor in
            try await store.append(cell(blockID(1), at: 0, [1], ended: true))
            faults.set(error: code, for: operation)
            async let outcome = refusal {
                try await store.append(cell(blockID(2), at: 0, [2], ended: true))
            }
            try await reactor.sleep(for: .milliseconds(100))
            faults.set(error: nil, for: operation)
            let error = await outcome
            // The cell's own bytes are not written again: their writer is told to come back.
            #expect(error == nil || (operation == .write && error?.code == .overloaded))
            #expect(await store.volumes()[0].isFailed == false)
            try await store.append(cell(blockID(3), at: 0, [3], ended: true))
            #expect(try await store.bytes(of: blockID(3)) == [3])
            #expect(await store.report()[0].state == .open)
        }
    }

    @Test(
        "a container whose journal could not be written is closed as soon as it can be",
        arguments: [ENOSPC, ENOBUFS, ENOMEM])
    func unwritten(code: Int32) async throws {
        var options = ContainerStore.Options.small
        options.roundPatience = .milliseconds(50)
        try await withFaults(options) { store, faults, reactor in
            try await store.append(cell(blockID(1), at: 0, [1], ended: true))
            faults.set(error: code, for: .write)
            // Without a payload: only the journal is written.
            let error = await refusal {
                try await store.append(cell(blockID(2), at: 0, [], group: 5))
            }
            #expect(error?.code == (code == ENOSPC ? .noSpace : .overloaded))
            try await reactor.sleep(for: .milliseconds(300))
            #expect(await store.report()[0].state == .closing)
            faults.set(error: nil, for: .write)
            try await until(reactor) { await store.report()[0].state == .closed }
            #expect(try await store.bytes(of: blockID(1)) == [1])
            #expect(await store.volumes()[0].isFailed == false)
        }
    }

    @Test("a closed container whose journal could not be written takes deletions again")
    func closedUnwritten() async throws {
        var options = ContainerStore.Options.small
        options.roundPatience = .milliseconds(50)
        try await withFaults(options) { store, faults, reactor in
            for number in 1...3 as ClosedRange<UInt64> {
                try await store.append(cell(blockID(number), at: 0, [1], ended: true))
            }
            try await store.closeContainer(one)
            faults.set(error: ENOSPC, for: .write)
            #expect(await refusal { try await store.deleteBlocks([blockID(1)]) }?.code == .noSpace)
            faults.set(error: nil, for: .write)
            try await until(reactor) {
                await refusal { try await store.deleteBlocks([blockID(1)]) } == nil
            }
            try await store.deleteBlocks([blockID(2)])
            #expect(await refusal { try await store.bytes(of: blockID(1)) }?.code == .noSuchBlock)
            #expect(try await store.bytes(of: blockID(3)) == [1])
            #expect(await store.report()[0].blockCount == 1)
        }
    }

    @Test("after an allocation that failed the next is tried half an extent later")
    func allocatedAgain() async throws {
        try await withFaults { store, faults, reactor in
            let container = try store.container(one)
            let first = container.state.withLock { $0.allocatedTo }
            faults.set(error: ENOMEM, for: .allocate)
            for number in 1...4 as ClosedRange<UInt64> {
                try await store.append(
                    cell(blockID(number), at: 0, pattern(64 << 10, seed: number), ended: true))
            }
            try await until(reactor) {
                container.state.withLock { $0.allocationFailedAt != nil && !$0.isAllocating }
            }
            #expect(container.state.withLock { $0.allocatedTo } == first)
            faults.set(error: nil, for: .allocate)
            for number in 5...8 as ClosedRange<UInt64> {
                try await store.append(
                    cell(blockID(number), at: 0, pattern(64 << 10, seed: number), ended: true))
            }
            try await until(reactor) { container.state.withLock { $0.allocatedTo > first } }
        }
    }

    @Test("a closed container keeps no journal open once its deletions are written")
    func journalClosed() async throws {
        try await withFaults { store, _, reactor in
            try await store.append(cell(blockID(1), at: 0, [1], ended: true))
            try await store.append(cell(blockID(2), at: 0, [1], ended: true))
            try await store.closeContainer(one)
            try await store.deleteBlocks([blockID(1)])
            let container = try store.container(one)
            try await until(reactor) { !container.journalWriter.isOpen }
        }
    }

    @Test("a store that lacks descriptors when it is opened says so instead of losing its disks")
    func openingWithout() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 12)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            try await Task(executorPreference: reactor) {
                let store = try await openStore(directory, on: reactor)
                try await store.createContainer(one, replication: replication, replicaIndex: 1)
                try await store.append(cell(blockID(1), at: 0, [1], ended: true))
                try await store.close()
                faults.set(error: ENOMEM, for: .read)
                let error = await refusal { _ = try await openStore(directory, on: reactor) }
                #expect(error?.code == .overloaded)
                faults.set(error: nil, for: .read)
                let again = try await openStore(directory, on: reactor)
                #expect(try await again.bytes(of: blockID(1)) == [1])
                try await again.close()
            }.value
        }
    }

    @Test("a hung disk is suspended, its writers are told, other disks go on, and it comes back")
    func hung() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 13)
            let good = try Reactor.start()
            let bad = try Reactor.start(.init(backend: .faulty(faults)))
            defer {
                faults.set(isHung: false)
                good.stop()
                bad.stop()
            }
            try await Task(executorPreference: good) {
                var options = ContainerStore.Options.small
                options.hangDelay = .milliseconds(300)
                options.watchInterval = .milliseconds(50)
                let store = try await ContainerStore.open(
                    volumes: ["\(directory)/a", "\(directory)/b"], datanode: thisDatanode,
                    cluster: nil, options: options, reactors: [good, bad])
                for id in [1, 2] as [UInt64] {
                    try await store.createContainer(
                        ContainerID(id), replication: replication, replicaIndex: 1)
                    try await store.append(cell(blockID(1, in: id), at: 0, [UInt8(id)]))
                }
                let onBad = try store.container(ContainerID(2)).volume.reactor === bad ? 2 : 1
                let bytes = pattern(4096, seed: 5)
                let stuck = blockID(2, in: UInt64(onBad))
                faults.set(isHung: true)
                // Its bytes are written nowhere; only the journal's write hangs.
                let error = await refusal {
                    try await store.append(cell(stuck, at: 0, [], group: 3))
                }
                #expect(error?.code == .io)
                let other = blockID(3, in: UInt64(3 - onBad))
                try await store.append(cell(other, at: 0, bytes))
                #expect(await refusal { try await store.bytes(of: stuck) }?.code == .io)
                var reports = await store.volumes()
                #expect(reports.count { $0.isFailed } == 1)
                #expect(reports.contains { $0.reason?.contains("does not answer") == true })
                #expect(reports.allSatisfy { !$0.isFull }, "its containers would be closed")
                faults.set(isHung: false)
                try await until(good) { await store.volumes().allSatisfy { !$0.isFailed } }
                try await store.append(cell(stuck, at: 0, bytes))
                #expect(try await store.bytes(of: stuck) == bytes)
                reports = await store.volumes()
                #expect(reports.allSatisfy { $0.available > 0 })
                #expect(await store.report().count == 2)
                try await store.close()
            }.value
        }
    }

    @Test("a container is made again only when the one of its number is gone")
    func madeWhileRemoved() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            for round in 0..<30 {
                try await store.createContainer(one, replication: replication, replicaIndex: 1)
                let removal = Task(executorPreference: reactor) { [one] in
                    try await store.deleteContainer(one)
                }
                for _ in 0..<round % 5 { await Task.yield() }
                try await store.createContainer(one, replication: replication, replicaIndex: 1)
                // Not yet removed, or made anew; never one that is on its way out.
                let phase = try store.container(one).state.withLock { $0.phase }
                #expect(phase == .open)
                try await removal.value
                try await store.deleteContainer(one)
            }
            try await store.close()
        }
    }

    @Test("a removal that failed removes the files when it is repeated")
    func removedAgain() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(one, replication: replication, replicaIndex: 1)
            try await store.append(cell(blockID(1), at: 0, [1], ended: true))
            let container = try store.container(one)
            container.state.withLock { $0.phase = .deleted }
            let error = await refusal {
                try await store.createContainer(one, replication: replication, replicaIndex: 1)
            }
            #expect(error?.code == .containerState)
            try await store.deleteContainer(one)
            #expect(try names(in: container.volume.containersPath) == [])
            try await store.createContainer(one, replication: replication, replicaIndex: 2)
            try await store.close()
        }
    }

    @Test("a power cut right after the first append does not take a new volume's directory")
    func newDirectory() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 14, losesFolders: true)
            let path = "\(directory)/not/there/yet"
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            try await Task(executorPreference: reactor) {
                let store = try await openStore(path, on: reactor, options: .mortal)
                try await store.createContainer(one, replication: replication, replicaIndex: 1)
                try await store.append(cell(blockID(1), at: 0, [1, 2, 3], ended: true))
            }.value
            faults.crash(atOperation: faults.operationCount)
            reactor.stop()
            faults.applyCrash()
            let next = try Reactor.start()
            defer { next.stop() }
            try await Task(executorPreference: next) {
                let store = try await openStore(path, on: next, options: .mortal)
                #expect(try await store.bytes(of: blockID(1)) == [1, 2, 3])
                try await store.close()
            }.value
        }
    }
}
