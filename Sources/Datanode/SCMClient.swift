import Model
import Reactor
import Transport
import Wire

/// Typed calls to the Storage Container Manager.
public struct SCMClient: Sendable {
    private let channel: RPCChannel
    private let timeout: Duration

    public init(_ channel: RPCChannel, timeout: Duration = .seconds(10)) {
        self.channel = channel
        self.timeout = timeout
    }

    func register(_ request: SCMRegisterRequest) async throws(StoreError) -> SCMRegisterResponse {
        try SCMRegisterResponse(parsing: try await call(.register, request.encoded))
    }

    func heartbeat(
        _ request: SCMHeartbeatRequest
    ) async throws(StoreError) -> SCMHeartbeatResponse {
        try SCMHeartbeatResponse(parsing: try await call(.heartbeat, request.encoded))
    }

    private func call(_ method: SCMMethod, _ message: [UInt8]) async throws(StoreError) -> [UInt8] {
        try await channel.call(method.rawValue, message, timeout: timeout).message
    }
}

/// The SCMs that a datanode begins to report to, and how it reaches those that it is told of later.
public struct SCMClients: Sendable {
    let addresses: [String]
    let connect: @Sendable (_ address: String) throws(StoreError) -> SCMClient

    /// - Parameters:
    ///   - addresses: `HOST:PORT` of the SCMs, at least one. They tell of others.
    ///   - connect: the client of the SCM at an address; called once for each while it is one.
    /// - Throws: `invalidArgument` with an address that is none.
    public init(
        _ addresses: [String],
        connect: @escaping @Sendable (_ address: String) throws(StoreError) -> SCMClient
    ) throws(StoreError) {
        guard !addresses.isEmpty else {
            throw StoreError(.invalidArgument, "a datanode reports to an SCM; none is named")
        }
        for address in addresses { _ = try HostPort(address) }
        self.addresses = addresses
        self.connect = connect
    }
}
