import Model
import Reactor
import Transport
import Wire

extension ClusterClient {
    /// Who can be asked over the native protocol.
    public enum Role: Hashable, Sendable {
        case om
        case scm
        case datanode(DatanodeAddress)
    }

    /// `HOST:PORT` of OM, as calls to it are noted.
    public var omAddress: String { names.caller.address }
    /// `HOST:PORT` of SCM, as calls to it are noted.
    public var scmAddress: String { scm.channel.address }

    /// What a datanode measured of its disks since it started.
    public func disks(of node: DatanodeAddress) async throws(StoreError) -> DNDisksResponse {
        let reply = try await channel(to: .datanode(node)).call(
            DatanodeMethod.disks.rawValue, [], timeout: .seconds(5))
        return try DNDisksResponse(parsing: reply.message)
    }

    /// The spans that `role` has of a request; with identity 0 of the `slowest` requests.
    public func trace(
        _ traceID: UInt64, slowest: Int = 0, of role: Role
    ) async throws(StoreError) -> TelemetryTraceResponse {
        var request = TelemetryTraceRequest()
        request.traceID = traceID
        request.slowest = UInt32(clamping: slowest)
        let reply = try await channel(to: role).call(
            CommonMethod.trace.rawValue, request.encoded, timeout: .seconds(5))
        return try TelemetryTraceResponse(parsing: reply.message)
    }

    private func channel(to role: Role) -> RPCChannel {
        switch role {
        case .om: names.caller.channel
        case .scm: scm.channel
        case .datanode(let node):
            datanodes.channels.channel(to: node, on: reactors.next())
        }
    }
}
