import Bytes
import Glibc
import Model
import Reactor
import Transport

/// Row 8: payloads and small calls, server and client in processes of their own: over loopback
/// TCP, or (`--shared 1`) as processes of one machine do it, in shared memory.
struct RPCRun {
    private let options: Options

    init(_ options: Options) throws(UsageError) {
        guard options.number("port", 0) > 0 else { throw UsageError(message: "--port is missing") }
        self.options = options
        if options.number("shared", 0) == 1 { BufferPool.shareProcessPool() }
    }

    /// Takes a payload and answers nothing; without payload, echoes the message.
    private struct Handler: RPCHandler {
        func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
            RPCReply(request.payload == nil ? request.message : [])
        }
    }

    /// Serves on a reactor per core until standard input ends.
    static func serve() async throws {
        let reactors = try ReactorGroup(registersArena: true)
        let server = try RPCServer(
            host: "127.0.0.1", port: 0, name: "bench", reactors: reactors.reactors,
            handler: Handler())
        server.start()
        print("{\"port\": \(server.port)}")
        fflush(nil)
        // The thread that waits here belongs to nobody: the reactors have their own.
        while readLine() != nil {}
        await server.stop()
    }

    /// Sends payloads of 1 MiB over `connections`, each on a core of its own.
    func send() async throws {
        let connections = options.number("connections", 2)
        // One on its way and the next ready: more only pushes the payloads out of the cache.
        let depth = options.number("depth", 2)
        let mib = options.number("mib", 4096)
        let reactors = try ReactorGroup(registersArena: true)
        let buffer = reactors.reactors[0].pool.allocate(1 << 20)
        buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0x5a)
        let payload = Payload(buffer, 0..<1 << 20)
        let channels = try await connect(connections, reactors)
        let each = mib / connections / depth
        let watch = Stopwatch()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (channel, reactor) in channels {
                for _ in 0..<depth {
                    group.addTask(executorPreference: reactor) {
                        for _ in 0..<each {
                            _ = try await channel.call(1, [1, 2, 3, 4], payload: payload)
                        }
                    }
                }
            }
            try await group.waitForAll()
        }
        printResult([
            ("seconds", watch.seconds), ("cpu_seconds", watch.cpuSeconds),
            ("bytes", Double(each * depth * connections << 20)),
        ])
    }

    /// Calls with 64 bytes each way on one connection, `depth` in flight.
    func call() async throws {
        let depth = options.number("depth", 64)
        let each = options.number("count", 300_000) / depth
        let reactors = try ReactorGroup(count: 1, registersArena: false)
        let channels = try await connect(1, reactors)
        let message = [UInt8](repeating: 7, count: 64)
        let watch = Stopwatch()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (channel, reactor) in channels {
                for _ in 0..<depth {
                    group.addTask(executorPreference: reactor) {
                        for _ in 0..<each {
                            let reply = try await channel.call(1, message)
                            precondition(reply.message.count == 64, "the message comes back")
                        }
                    }
                }
            }
            try await group.waitForAll()
        }
        printResult([
            ("seconds", watch.seconds), ("cpu_seconds", watch.cpuSeconds),
            ("requests", Double(each * depth)),
        ])
    }

    /// Channels that are connected already, and the reactor of each.
    private func connect(
        _ count: Int, _ reactors: ReactorGroup
    ) async throws -> [(RPCChannel, Reactor)] {
        var channels: [(RPCChannel, Reactor)] = []
        for index in 0..<count {
            let reactor = reactors.reactors[index % reactors.reactors.count]
            let channel = RPCChannel(
                .remote(host: "127.0.0.1", port: options.number("port", 0)), name: "bench",
                on: reactor, mayShareMemory: options.number("shared", 0) == 1)
            _ = try await channel.call(1, [0])
            channels.append((channel, reactor))
        }
        return channels
    }
}
