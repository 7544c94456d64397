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
