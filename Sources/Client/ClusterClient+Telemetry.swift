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
        let channel = datanodes.channels.channel(to: node, on: reactors.next())
        let reply = try await channel.call(
            DatanodeMethod.disks.rawValue, [], timeout: .seconds(5))
        return try DNDisksResponse(parsing: reply.message)
    }

    /// Has a volume of a datanode leave, or stay.
    ///
    /// Throws `invalidArgument` where there is no such volume, or it is the last one that works.
    public func setLeaving(
        _ isLeaving: Bool, volume path: String, of node: DatanodeAddress
    ) async throws(StoreError) {
        var request = DNVolumeRequest()
        request.path = path
        request.isLeaving = isLeaving
        let channel = datanodes.channels.channel(to: node, on: reactors.next())
        _ = try await channel.call(
            DatanodeMethod.volume.rawValue, request.encoded, timeout: .seconds(10))
    }

    /// The spans that `role` has of a request; with identity 0 of the `slowest` requests.
    public func trace(
        _ traceID: UInt64, slowest: Int = 0, of role: Role
    ) async throws(StoreError) -> TelemetryTraceResponse {
        var request = TelemetryTraceRequest()
        request.traceID = traceID
        request.slowest = UInt32(clamping: slowest)
        let method = CommonMethod.trace.rawValue
        let limit = Duration.seconds(5)
        let reply =
            switch role {
            case .om:
                try await names.caller.channel.call(method, request.encoded, timeout: limit)
            case .scm: try await scm.channel.call(method, request.encoded, timeout: limit)
            case .datanode(let node):
                try await datanodes.channels.channel(to: node, on: reactors.next()).call(
                    method, request.encoded, timeout: limit)
            }
        return try TelemetryTraceResponse(parsing: reply.message)
    }
}
