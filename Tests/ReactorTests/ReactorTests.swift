import Bytes
import CLiburing
import Foundation
import Synchronization
import Testing

@testable import Reactor

/// The backends that every test of this file runs on.
enum TestBackend: String, CaseIterable, Sendable {
    case uring, poll, faultyWithoutFaults
    /// On a thread of somebody else.
    case hosted

    func start() async throws -> Reactor {
        switch self {
        case .uring: try Reactor.start(.init(backend: .uring, registersArena: true))
        case .poll: try Reactor.start(.init(backend: .poll))
        case .faultyWithoutFaults:
            try Reactor.start(.init(backend: .faulty(FaultInjector(seed: 1))))
        case .hosted: try await Reactor.start(on: PollingHost())
        }
    }
}

/// A loop of somebody else: waits in `poll`, runs what it was given.
final class PollingHost: ReactorHost {
    private struct State {
        var jobs: [@Sendable () -> Void] = []
        var timers: [(at: UInt64, body: @Sendable () -> Void)] = []
        var watched: (descriptor: Int32, body: @Sendable () -> Void)?
    }
    private let state = Mutex(State())
    private let signal = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))

    init() {
        // Ends with the process, like the loop of a gateway.
        Thread.detachNewThread { [self] in while true { turn() } }
    }

    func run(_ body: @escaping @Sendable () -> Void) {
        state.withLock { $0.jobs.append(body) }
        var one: UInt64 = 1
        _ = write(signal, &one, 8)
    }

    func run(after nanoseconds: UInt64, _ body: @escaping @Sendable () -> Void) {
        let at = MonotonicTime.now().nanoseconds + nanoseconds
        state.withLock { $0.timers.append((at, body)) }
    }

    func watch(_ descriptor: Int32, _ body: @escaping @Sendable () -> Void) async throws {
        state.withLock { $0.watched = (descriptor, body) }
        run {}
    }

    private func turn() {
        let now = MonotonicTime.now().nanoseconds
        let (jobs, watched, next) = state.withLock { state in
            let due = state.timers.filter { $0.at <= now }.map(\.body)
            state.timers.removeAll { $0.at <= now }
            defer { state.jobs = [] }
            return (state.jobs + due, state.watched, state.timers.map(\.at).min())
        }
        for job in jobs { job() }
        var polled = [pollfd(fd: signal, events: Int16(POLLIN), revents: 0)]
        if let watched {
            polled.append(pollfd(fd: watched.descriptor, events: Int16(POLLIN), revents: 0))
        }
        // A job may have set a timer: looked at in the next turn.
        let limit = jobs.isEmpty ? next.map { Int32(($0 - min($0, now)) / 1_000_000) + 1 } ?? -1 : 0
        guard poll(&polled, nfds_t(polled.count), limit) > 0 else { return }
        var value: UInt64 = 0
        if polled[0].revents != 0 { _ = read(signal, &value, 8) }
        if let watched, polled[1].revents != 0 {
            _ = read(watched.descriptor, &value, 8)
            watched.body()
        }
    }
}

func withTemporaryDirectory<R>(_ body: (String) async throws -> R) async throws -> R {
    let path = NSTemporaryDirectory() + "apus-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    return try await body(path)
}

@Suite("Reactor")
struct ReactorTests {
    @Test(
        "a task with the executor preference runs on the reactor's thread",
        arguments: TestBackend.allCases)
    func executor(backend: TestBackend) async throws {
        let reactor = try await backend.start()
        defer { reactor.stop() }
        let isCurrent = await Task(executorPreference: reactor) {
            await Task.yield()
            return reactor.isCurrent
        }.value
        #expect(isCurrent)
        #expect(!reactor.isCurrent)
    }

    @Test("the ring is used where it is asked for by name")
    func names() async throws {
        let uring = try await TestBackend.uring.start()
        #expect(uring.backendName == "io_uring")
        uring.stop()
        let poll = try await TestBackend.poll.start()
        #expect(poll.backendName == "poll")
        poll.stop()
    }

    @Test(
        "files read back what was written, direct and buffered", arguments: TestBackend.allCases,
        [true, false])
    func files(backend: TestBackend, direct: Bool) async throws {
        let reactor = try await backend.start()
        defer { reactor.stop() }
        try await withTemporaryDirectory { directory in
            let path = directory + "/file"
            let file = try await File.open(
                path, direct ? [.read, .write, .create, .direct] : [.read, .write, .create],
                on: reactor)
            let buffer = reactor.pool.allocate(1 << 20)
            for index in 0..<(1 << 20) {
                buffer.bytes[index] = UInt8(truncatingIfNeeded: index * 7)
            }
            try await file.allocate(0..<(4 << 20))
            try await file.write(Payload(buffer, 0..<(1 << 20)), at: 4096)
            try await file.synchronize()
            #expect(try await file.size() == 4 << 20)
            let back = reactor.pool.allocate(1 << 20)
            #expect(try await file.read(into: back, 0..<(1 << 20), at: 4096) == 1 << 20)
            #expect(back.bytes.elementsEqual(buffer.bytes))
            try await file.punchHole(4096..<(1 << 20))
            #expect(try await file.read(into: back, 0..<4096, at: 8192) == 4096)
            #expect(back.bytes[0..<4096].allSatisfy { $0 == 0 })
            try await file.truncate(to: 8192)
            #expect(try await file.read(into: back, 0..<8192, at: 4096) == 4096)
            try await file.close()
            try await reactor.rename(path, to: directory + "/other")
            try await reactor.synchronizeDirectory(directory)
            #expect(try await reactor.list(directory) == ["other"])
            #expect(try await reactor.status(path) == nil)
            try await reactor.remove(directory + "/other")
        }
    }

    @Test(
        "a missing file is an error that names the operation and the path",
        arguments: TestBackend.allCases)
    func missing(backend: TestBackend) async throws {
        let reactor = try await backend.start()
        defer { reactor.stop() }
        let error = await #expect(throws: IOError.self) {
            _ = try await File.open("/nowhere/at/all", [.read], on: reactor)
        }
        #expect(error?.isAbsent == true)
        #expect(error?.description.contains("/nowhere/at/all") == true)
    }

    @Test("timers fire in order and end early when cancelled", arguments: TestBackend.allCases)
    func timers(backend: TestBackend) async throws {
        let reactor = try await backend.start()
        defer { reactor.stop() }
        let order = await withTaskGroup(of: Int.self) { group in
            for milliseconds in [60, 20, 40] {
                group.addTask(executorPreference: reactor) {
                    try? await reactor.sleep(for: .milliseconds(milliseconds))
                    return milliseconds
                }
            }
            var order: [Int] = []
            for await value in group { order.append(value) }
            return order
        }
        #expect(order == [20, 40, 60])
        let start = reactor.now()
        let sleeper = Task(executorPreference: reactor) {
            try await reactor.sleep(for: .seconds(3600))
        }
        sleeper.cancel()
        await #expect(throws: CancellationError.self) { try await sleeper.value }
        #expect(start.duration(to: reactor.now()) < .seconds(1800))
    }

    @Test("bytes cross a connection in both directions", arguments: TestBackend.allCases)
    func sockets(backend: TestBackend) async throws {
        let reactor = try await backend.start()
        defer { reactor.stop() }
        let listener = try Listener(host: "127.0.0.1", port: 0, on: reactor)
        let size = 3 << 20
        async let served: Int = {
            let socket = try await listener.accept()
            let buffer = reactor.pool.allocate(size)
            let count = try await socket.receive(into: buffer, 0..<size, all: true)
            let vector = SendVector()
            vector.append(UnsafeRawBufferPointer(buffer.bytes(in: 0..<100)))
            vector.append(UnsafeRawBufferPointer(buffer.bytes(in: 100..<size)))
            try await socket.send(vector)
            withExtendedLifetime(buffer) {}
            return count
        }()
        let client = try await Socket.connect(host: "127.0.0.1", port: listener.port, on: reactor)
        let sent = reactor.pool.allocate(size)
        for index in 0..<size { sent.bytes[index] = UInt8(truncatingIfNeeded: index &* 31 >> 3) }
        let vector = SendVector()
        vector.append(UnsafeRawBufferPointer(sent.bytes(in: 0..<size)))
        try await client.send(vector)
        let back = reactor.pool.allocate(size)
        #expect(try await client.receive(into: back, 0..<size, all: true) == size)
        #expect(try await served == size)
        #expect(back.bytes(in: 0..<size).elementsEqual(sent.bytes(in: 0..<size)))
        client.shutdown()
        #expect(try await client.receive(into: back, 0..<10, all: false) == 0)
        listener.close()
        await #expect(throws: IOError.self) {
            _ = try await Socket.connect(host: "127.0.0.1", port: 1, on: reactor)
        }
    }

    @Test("many operations from many threads all complete", arguments: TestBackend.allCases)
    func concurrency(backend: TestBackend) async throws {
        let reactor = try await backend.start()
        defer { reactor.stop() }
        try await withTemporaryDirectory { directory in
            let file = try await File.open(directory + "/f", [.read, .write, .create], on: reactor)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for index in 0..<200 {
                    group.addTask {
                        let bytes = [UInt8](repeating: UInt8(index), count: 4096)
                        try await file.write(
                            Payload(copying: bytes, pool: reactor.pool), at: index * 4096)
                    }
                }
                try await group.waitForAll()
            }
            let back = reactor.pool.allocate(4096)
            for index in 0..<200 {
                #expect(try await file.read(into: back, 0..<4096, at: index * 4096) == 4096)
                #expect(back.bytes[17] == UInt8(index))
            }
        }
    }
}
