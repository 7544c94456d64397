import Model
import Reactor
import Transport

/// Runs `body` with a server of `handler` on a reactor of its own, and ends both.
func withServer(
    _ handler: some RPCHandler, _ body: (Reactor, RPCServer) async throws -> Void
) async throws {
    let reactor = try Reactor.start()
    defer { reactor.stop() }
    let server = try RPCServer(
        host: "127.0.0.1", port: 0, name: "server", reactors: [reactor], handler: handler,
        limits: .patient)
    server.start()
    try await body(reactor, server)
    await server.stop()
}
