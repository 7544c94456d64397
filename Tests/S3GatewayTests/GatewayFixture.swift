import Client
import Logging
import Model
import Telemetry
import TestSupport

@testable import S3Gateway

#if canImport(FoundationEssentials)
    import FoundationEssentials
#endif

/// A gateway on a store in memory, listening on a free port, with two users.
struct GatewayFixture {
    let store: InMemoryObjectStore
    let port: Int

    static let alice = UserInfo(
        name: "alice", accessKeyID: "ALICEACCESSKEY000001", secretAccessKey: "alice-secret-key/+=",
        canonicalID: String(repeating: "a1", count: 32), displayName: "Alice A.")
    static let bob = UserInfo(
        name: "bob", accessKeyID: "BOBACCESSKEY00000002", secretAccessKey: "bob-secret-key/+=",
        canonicalID: String(repeating: "b2", count: 32), displayName: "Bob B.")

    static func now() -> Timestamp {
        Timestamp(milliseconds: Int64(Date().timeIntervalSince1970 * 1000))
    }

    /// Runs `body` while the gateway serves.
    static func run(
        limits: S3Configuration.Limits = .init(), port: Int = 0,
        storeLimits: InMemoryObjectStore.Limits = .init(), baseDomains: [String] = [],
        telemetry: RoleTelemetry? = nil, logger: Logger? = nil,
        configure: (inout S3Configuration) -> Void = { _ in },
        _ body: (GatewayFixture) async throws -> Void
    ) async throws {
        let store = InMemoryObjectStore(limits: storeLimits, clock: { now() })
        try await store.createUser(alice)
        try await store.createUser(bob)
        var quiet = Logger(label: "s3")
        quiet.logLevel = .error
        var configuration = S3Configuration(port: port, baseDomains: baseDomains, limits: limits)
        configure(&configuration)
        let gateway = S3Gateway(
            store: store, configuration: configuration, logger: logger ?? quiet,
            telemetry: telemetry)
        let serving = Task { try await gateway.run() }
        do {
            try await body(GatewayFixture(store: store, port: gateway.boundPort()))
        } catch {
            serving.cancel()
            _ = await serving.result
            throw error
        }
        serving.cancel()
        _ = await serving.result
    }

    /// The users in the AWS credentials format.
    static var credentials: String {
        [("default", alice), ("second", bob)].map { name, user in
            "[\(name)]\naws_access_key_id = \(user.accessKeyID)\n"
                + "aws_secret_access_key = \(user.secretAccessKey)\n"
                + "canonical_id = \(user.canonicalID)\ndisplay_name = \(user.displayName)\n"
        }.joined(separator: "\n")
    }
}
