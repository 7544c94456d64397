import Bytes
import Foundation
import Glibc
import Synchronization
import Telemetry
import Testing

@testable import Reactor

@Suite("Disk")
struct DiskTests {
    private static func fill(_ file: File, blocks: Int) async throws {
        for block in 0..<blocks {
            let bytes = [UInt8](repeating: UInt8(block % 251), count: 4096)
            try await file.write(
                Payload(copying: bytes, pool: file.reactor.pool), at: block * 4096)
        }
        try await file.synchronize()
    }

    /// Runs `body` while a client's read of `file` is in flight, whatever else keeps the machine
    /// busy: both are started in one turn of the reactor, before it looks for completions.
    private static func besideClient(
        of file: File, on reactor: Reactor, _ body: @escaping @Sendable () async throws -> Void
    ) async throws {
        try await Task(executorPreference: reactor) {
            try await withThrowingTaskGroup { group in
                group.addTask {
                    let buffer = reactor.pool.allocate(4096)
                    _ = try await file.read(into: buffer, 0..<4096, at: 0, for: .client)
                }
                group.addTask { try await body() }
                try await group.waitForAll()
            }
        }.value
    }

    @Test(
        "operations through a disk do what they do without, and are measured by class",
        arguments: TestBackend.allCases)
    func measured(backend: TestBackend) async throws {
        let reactor = try await backend.start()
        defer { reactor.stop() }
        let disk = Disk(name: "d", on: reactor)
        try await withTemporaryDirectory { directory in
            let file = try await File.open(
                directory + "/f", [.read, .write, .create, .direct], on: reactor, disk: disk)
            try await Self.fill(file, blocks: 16)
            let buffer = reactor.pool.allocate(65536)
            let count = try await file.read(into: buffer, 0..<65536, at: 0, for: .scrub)
            #expect(count == 65536)
            #expect((0..<16).allSatisfy { buffer.bytes[$0 * 4096] == UInt8($0) })
            try await file.close()
        }
        let statistics = disk.statistics()
        #expect(statistics[.client].writes.count == 16)
        #expect(statistics[.client].bytesWritten == 65536)
        #expect(statistics[.client].synchronizations.count == 1)
        #expect(statistics[.client].reads.count == 0)
        #expect(statistics[.scrub].reads.count == 1 && statistics[.scrub].bytesRead == 65536)
        #expect(statistics.reads.p50 > 0 && statistics.errors == 0)
        #expect(statistics.classes.allSatisfy { $0.inFlight == 0 && $0.queued == 0 })
        disk.close()
    }

    @Test(
        "on a slow disk that fails now and then nobody is forgotten",
        arguments: 1...6 as ClosedRange<UInt64>)
    func noLostWakeUps(seed: UInt64) async throws {
        let faults = FaultInjector(
            seed: seed, rates: .init(error: 0, short: 0.2, delay: 0.7), prefersUring: seed % 2 == 0)
        let reactor = try Reactor.start(.init(backend: .faulty(faults)))
        defer { reactor.stop() }
        let disk = Disk(name: "d", on: reactor, settings: DiskSettings(depth: 3))
        try await withTemporaryDirectory { directory in
            let file = try await File.open(
                directory + "/f", [.read, .write, .create], on: reactor, disk: disk)
            try await Self.fill(file, blocks: 64)
            faults.set(rates: .init(error: 0.1, short: 0.2, delay: 0.7))
            let answers = Counter()
            await withDiscardingTaskGroup { group in
                for task in 0..<64 {
                    // Half from the reactor's thread, half from elsewhere; some are cancelled.
                    let executor: Reactor? = task % 2 == 0 ? reactor : nil
                    group.addTask(executorPreference: executor) {
                        let buffer = reactor.pool.allocate(4096)
                        let ioClass = IOClass.allCases[task % 4]
                        for round in 0..<20 {
                            let block = (task * 7 + round) % 64
                            if let count = try? await file.read(
                                into: buffer, 0..<4096, at: block * 4096, for: IOContext(ioClass))
                            {
                                #expect(count == 4096 && buffer.bytes[0] == UInt8(block))
                            }
                            answers.add()
                        }
                    }
                }
                group.cancelAll()
            }
            #expect(answers.value == 64 * 20)
        }
        let statistics = disk.statistics()
        #expect(statistics.classes.allSatisfy { $0.inFlight == 0 && $0.queued == 0 })
        #expect(statistics.errors > 0)
        #expect(statistics.classes.reduce(0) { $0 + $1.waits.count } > 0)
    }

    @Test("clients that wait on a slow disk get their share, and a scrubber no more than its own")
    func contention() async throws {
        let faults = FaultInjector(seed: 5, rates: .init(delay: 1), prefersUring: false)
        let reactor = try Reactor.start(.init(backend: .faulty(faults)))
        defer { reactor.stop() }
        let disk = Disk(name: "d", on: reactor, settings: DiskSettings(depth: 8))
        try await withTemporaryDirectory { directory in
            let file = try await File.open(
                directory + "/f", [.read, .write, .create, .direct], on: reactor, disk: disk)
            try await Self.fill(file, blocks: 16)
            await withDiscardingTaskGroup { group in
                let isDone = Flag()
                for task in 0..<48 {
                    let ioClass: IOClass = task < 32 ? .client : .scrub
                    group.addTask(executorPreference: reactor) {
                        let buffer = reactor.pool.allocate(4096)
                        for round in 0..<300 where !isDone.isOpen {
                            _ = try? await file.read(
                                into: buffer, 0..<4096, at: (round % 16) * 4096,
                                for: IOContext(ioClass))
                        }
                        // The first client to end ends the measurement.
                        if ioClass == .client { isDone.open() }
                    }
                }
            }
        }
        let statistics = disk.statistics()
        let client = Double(statistics[.client].reads.count)
        let scrub = Double(statistics[.scrub].reads.count)
        #expect(client > 3000)
        #expect(scrub / (client + scrub) < 0.13, "7 to 70 are 9 %: \(scrub) of \(client)")
        #expect(scrub > 0)
    }

    @Test(
        "what is read and written in pieces beside clients is whole",
        arguments: TestBackend.allCases)
    func pieces(backend: TestBackend) async throws {
        let reactor = try await backend.start()
        defer { reactor.stop() }
        let disk = Disk(name: "d", on: reactor)
        try await withTemporaryDirectory { directory in
            let file = try await File.open(
                directory + "/f", [.read, .write, .create, .direct], on: reactor, disk: disk)
            try await Self.fill(file, blocks: 256)
            let count = 1 << 20
            let buffer = reactor.pool.allocate(count)
            // A client's operation in flight when each starts, as both are asked for in one turn:
            // the other class yields.
            try await Self.besideClient(of: file, on: reactor) {
                let read = try await file.read(into: buffer, 0..<count, at: 0, for: .scrub)
                #expect(read == count)
            }
            #expect((0..<256).allSatisfy { buffer.bytes[$0 * 4096 + 7] == UInt8($0 % 251) })
            try await Self.besideClient(of: file, on: reactor) {
                try await file.write(Payload(buffer, 0..<count), at: count, for: .background)
            }
            let copy = reactor.pool.allocate(count)
            #expect(try await file.read(into: copy, 0..<count, at: count) == count)
            #expect((0..<256).allSatisfy { copy.bytes[$0 * 4096 + 9] == UInt8($0 % 251) })
            try await file.close()
        }
        #expect(disk.statistics()[.scrub].bytesRead == 1 << 20)
        #expect(disk.statistics()[.scrub].reads.count > 1)
        #expect(disk.statistics()[.background].writes.count > 1)
    }

    @Test("new settings hold at once for what waits")
    func settings() async throws {
        // Each operation lasts a turn at least: the first is under way when the others come.
        let faults = FaultInjector(seed: 1, rates: .init(delay: 1), prefersUring: false)
        let reactor = try Reactor.start(.init(backend: .faulty(faults)))
        defer { reactor.stop() }
        let disk = Disk(name: "d", on: reactor)
        disk.set(DiskSettings(depth: 1))
        try await withTemporaryDirectory { directory in
            let file = try await File.open(
                directory + "/f", [.read, .write, .create], on: reactor, disk: disk)
            await Task(executorPreference: reactor) {
                await withDiscardingTaskGroup { group in
                    for block in 0..<32 {
                        group.addTask {
                            let bytes = [UInt8](repeating: 1, count: 512)
                            try? await file.write(
                                Payload(copying: bytes, pool: reactor.pool), at: block * 512)
                        }
                    }
                }
            }.value
        }
        #expect(disk.statistics()[.client].waits.count == 31)
    }

    @Test(
        "who waits for a disk that hangs is told when the deadline passes; the disk is not blamed",
        arguments: IOClass.allCases)
    func deadline(ioClass: IOClass) async throws {
        let faults = FaultInjector(seed: 1, prefersUring: false)
        let reactor = try Reactor.start(.init(backend: .faulty(faults)))
        defer { reactor.stop() }
        let disk = Disk(name: "d", on: reactor, settings: DiskSettings(depth: 1))
        try await withTemporaryDirectory { directory in
            let file = try await File.open(
                directory + "/f", [.read, .write, .create], on: reactor, disk: disk)
            try await Self.fill(file, blocks: 1)
            faults.set(hungPath: directory)
            let hanging = Task {
                let buffer = reactor.pool.allocate(4096)
                return try await file.read(into: buffer, 0..<4096, at: 0)
            }
            while disk.operationsInFlight == 0 { try await reactor.sleep(for: .milliseconds(1)) }
            let buffer = reactor.pool.allocate(4096)
            var request = IORequest(
                .read(
                    IORequest.Transfer(
                        file: IOHandle(descriptor: -1), memory: buffer.base, length: 4096,
                        offset: 0, isFixedBuffer: false)))
            request.disk = UInt16(disk.number)
            request.ioClass = ioClass
            request.deadline = reactor.now().advanced(by: .milliseconds(20)).nanoseconds
            let result = await reactor.perform(request)
            let error = IOError(code: -result, operation: "read", path: "f")
            #expect(error.kind == .expired)
            #expect(error.description == "read f: waited for the disk beyond its deadline")
            #expect(reactor.now().nanoseconds >= request.deadline)
            let statistics = disk.statistics()
            for measures in statistics.classes {
                #expect(measures.expired == (measures.ioClass == ioClass ? 1 : 0))
                #expect(measures.errors == 0 && measures.refused == 0 && measures.queued == 0)
            }
            #expect(statistics[.client].inFlight == 1)
            faults.set(hungPath: nil)
            #expect(try await hanging.value == 4096)
        }
    }

    @Test("what a disk refuses is told apart from what the kernel answers")
    func kinds() {
        func kind(_ code: Int32) -> IOError.Kind {
            IOError(code: code, operation: "fdatasync", path: "f").kind
        }
        // A driver gave a command up: nobody knows what is on the disk.
        #expect(kind(ETIMEDOUT) == .disk && kind(ETIME) == .disk)
        #expect(kind(IOError.OwnCode.suspended) == .suspended)
        #expect(kind(IOError.OwnCode.expired) == .expired)
        #expect(IOError.OwnCode.suspended > 4095 && IOError.OwnCode.expired > 4095)
        let expired = IOError(code: IOError.OwnCode.expired, operation: "read", path: "f")
        #expect(!expired.isShortage && !expired.isOverload && !expired.isNoSpace)
    }

    @Test("a request is a plain value of less than a cache line")
    func plain() {
        #expect(_isPOD(IORequest.self))
        #expect(MemoryLayout<IORequest>.size <= 64, "\(MemoryLayout<IORequest>.size)")
    }

    @Test("numbers of closed disks are used again")
    func numbers() async throws {
        let reactor = try Reactor.start(.init(backend: .poll))
        defer { reactor.stop() }
        await Task(executorPreference: reactor) {
            for _ in 0..<5000 {
                let disk = Disk(name: "d", on: reactor)
                #expect(disk.number == 1)
                disk.close()
                disk.close()
            }
        }.value
    }
}

/// A flag that is set once.
private final class Flag: Sendable {
    private let flag = Atomic<Bool>(false)
    var isOpen: Bool { flag.load(ordering: .relaxed) }
    func open() { flag.store(true, ordering: .relaxed) }
}
