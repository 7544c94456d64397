import Bytes
import Eventually
import Glibc
import Model
import Reactor
import Testing

@testable import ContainerStore

@Suite("a volume that leaves")
struct LeavingTests {
    /// The volume that container 1 was put on, and the other one.
    private func volumes(in directory: String) throws -> (first: String, second: String) {
        let paths = ["\(directory)/v1", "\(directory)/v2"]
        let isFirst = try names(in: paths[0] + "/containers").contains("container-1.data")
        return isFirst ? (paths[0], paths[1]) : (paths[1], paths[0])
    }

    @Test("it gets nothing new, its containers are closed and told of, over a restart too")
    func leaves() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, volumes: 2)
            for id in 1...2 as ClosedRange<UInt64> {
                try await store.createContainer(
                    ContainerID(id), replication: replication, replicaIndex: 1)
                try await store.append(cell(blockID(1, in: id), at: 0, [1, 2, 3]))
            }
            let (first, second) = try volumes(in: directory)
            try await store.setLeaving(true, volume: first)
            for _ in 0..<50 where await store.report().first?.state != .closed {
                try await reactor.sleep(for: .milliseconds(20))
            }
            var reports = await store.report()
            #expect(reports.map(\.isLeaving) == [true, false])
            #expect(reports.map(\.state) == [.closed, .open])
            for id in 3...5 as ClosedRange<UInt64> {
                try await store.createContainer(
                    ContainerID(id), replication: replication, replicaIndex: 1)
            }
            #expect(try names(in: first + "/containers").count == 2)
            let told = await store.volumes()
            #expect(told.first { $0.path == first }?.isLeaving == true)
            #expect(told.first { $0.path == first }?.available == 0)
            #expect(told.first { $0.path == second }?.isLeaving == false)
            #expect(told.map(\.containers).sorted() == [1, 4])
            // What it has is read as ever.
            #expect(try await store.bytes(of: blockID(1, in: 1)) == [1, 2, 3])
            let last = await refusal { try await store.setLeaving(true, volume: second) }
            #expect(last?.code == .invalidArgument && last?.message.contains("last") == true)
            let stranger = await refusal { try await store.setLeaving(true, volume: "/x") }
            #expect(stranger?.message.contains(first) == true)
            try await store.close()

            let again = try await openStore(directory, on: reactor, volumes: 2)
            reports = await again.report()
            #expect(reports.first?.isLeaving == true)
            #expect(reports.dropFirst().allSatisfy { !$0.isLeaving })
            try await again.setLeaving(false, volume: first)
            try await again.setLeaving(false, volume: first)
            #expect(await again.report().allSatisfy { !$0.isLeaving })
            try await again.createContainer(
                ContainerID(9), replication: replication, replicaIndex: 1)
            #expect(try names(in: first + "/containers").count == 4)
            #expect(await again.volumes().map(\.containers).sorted() == [2, 4])
            try await again.close()
            #expect(!(try names(in: first).contains("leaving")))
        }
    }

    @Test("one whose last container was open when it ended has that closed when it begins")
    func restart() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, volumes: 2)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            try await store.append(cell(blockID(1), at: 0, [4, 5]))
            try await store.close()
            // The power failed between the file and the closing.
            try replaceContents(of: try volumes(in: directory).first + "/leaving", with: [])
            let again = try await openStore(directory, on: reactor, volumes: 2)
            for _ in 0..<50 where await again.report().first?.state != .closed {
                try await reactor.sleep(for: .milliseconds(20))
            }
            let report = await again.report().first
            #expect(report?.state == .closed && report?.isLeaving == true)
            #expect(try await again.bytes(of: blockID(1)) == [4, 5])
            try await again.close()
        }
    }

    @Test("two that are told to leave at once do not both leave; staying twice at once is no error")
    func atOnce() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor, volumes: 2)
            func errors(_ isLeaving: Bool, _ volumes: [Int]) async -> [StoreError] {
                await withTaskGroup(of: StoreError?.self) { group in
                    for number in volumes {
                        group.addTask(executorPreference: reactor) {
                            await refusal {
                                try await store.setLeaving(
                                    isLeaving, volume: "\(directory)/v\(number)")
                            }
                        }
                    }
                    var errors: [StoreError] = []
                    for await error in group { if let error { errors.append(error) } }
                    return errors
                }
            }
            for _ in 0..<5 {
                #expect(await errors(true, [1, 2]).map(\.code) == [.invalidArgument])
                #expect(await store.volumes().count { $0.isLeaving } == 1)
                #expect(await errors(false, [1, 2, 1, 2, 1, 2]).isEmpty)
                #expect(await errors(true, [1, 1, 1, 1]).isEmpty)
                #expect(await errors(false, [1, 1, 1, 1]).isEmpty)
                #expect(await store.volumes().allSatisfy { !$0.isLeaving && !$0.isFailed })
            }
            try await store.close()
        }
    }

    @Test("a container that was being made while its volume was told to leave is closed")
    func madeMeanwhile() async throws {
        try await withDirectory { directory in
            let faults = FaultInjector(seed: 3)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer {
                faults.set(hungPath: nil)
                reactor.stop()
            }
            try await Task(executorPreference: reactor) {
                let store = try await openStore(directory, on: reactor, volumes: 2)
                store.avoid(["\(directory)/v2"])
                let id = ContainerID(1)
                faults.set(hungPath: "\(directory)/v1/containers/container-1.data.new")
                let making = Task(executorPreference: reactor) {
                    await refusal {
                        try await store.createContainer(
                            id, replication: replication, replicaIndex: 1)
                    }
                }
                try await eventually("it is being made") { faults.hangingNames > 0 }
                // Its mark has to wait for the same disk, but nothing new is put there from now on.
                let leaving = Task(executorPreference: reactor) {
                    await refusal {
                        try await store.setLeaving(true, volume: "\(directory)/v1")
                    }
                }
                try await eventually("it is to leave") { store.volumeList[0].isLeaving }
                faults.set(hungPath: nil)
                #expect(await making.value == nil)
                #expect(await leaving.value == nil)
                try await eventually("it is closed") { store.report(of: id)?.state == .closed }
                try await store.close()
            }.value
        }
    }

    @Test("a mark that cannot be read, or written, is told, and takes no disk out")
    func unreadableMark() async throws {
        try await withReactor { directory, reactor in
            try await openStore(directory, on: reactor, volumes: 2).close()
            let mark = "\(directory)/v1/leaving"
            // A name that leads to itself.
            #expect(symlink(mark, mark) == 0)
            let store = try await openStore(directory, on: reactor, volumes: 2)
            var report = await store.volumes()[0]
            #expect(!report.isFailed && !report.isLeaving)
            #expect(report.problems.count == 1 && report.problems[0].contains(mark))
            try removeFile(mark)
            // A folder with something in it is neither removed nor replaced.
            try makeDirectory(mark + "/x")
            for isLeaving in [true, false] {
                let error = await refusal {
                    try await store.setLeaving(isLeaving, volume: "\(directory)/v1")
                }
                #expect(error?.code == .io)
                report = await store.volumes()[0]
                #expect(!report.isFailed && !report.isLeaving)
            }
            try await store.close()
        }
    }
}
