import Eventually
import Glibc
import Testing

@testable import Reactor

@Suite("Names of hosts")
struct HostNamesTests {
    @Test("numeric addresses are no names, names are looked up, and what is none is told")
    func lookUp() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        for host in ["127.0.0.1", "::1"] {
            #expect(SocketAddress(numeric: host, port: 9)?.numericHost == host)
        }
        #expect(SocketAddress(numeric: "localhost", port: 9) == nil)
        let found = try await reactor.lookUp(host: "localhost", port: 9)
        #expect(["127.0.0.1", "::1"].contains(found.numericHost))
        let error = await #expect(throws: IOError.self) {
            _ = try await Socket.connect(host: "no such host", port: 9, on: reactor)
        }
        #expect(error?.code == EHOSTUNREACH && error?.path == "no such host:9")
    }

    @Test("a resolver that does not answer holds up neither the reactor nor names of files")
    func hung() async throws {
        let faults = FaultInjector(seed: 1)
        let reactor = try Reactor.start(.init(backend: .faulty(faults)))
        defer { reactor.stop() }
        faults.set(hungPath: "localhost:9")
        let call = Task { try await reactor.lookUp(host: "localhost", port: 9) }
        try await eventually("the look-up hangs") { faults.hangingNames == 1 }
        #expect(try await reactor.status("/")?.isDirectory == true)
        try await reactor.sleep(for: .milliseconds(1))
        #expect(try await reactor.lookUp(host: "127.0.0.1", port: 9).numericHost == "127.0.0.1")
        faults.set(hungPath: nil)
        _ = try await call.value
    }
}
