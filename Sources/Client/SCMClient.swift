import Model
import Transport
import Wire

/// Typed calls to the SCM that leads, which knows where replicas are and how the cluster is.
public struct SCMClient: Sendable {
    enum Limits {
        static let timeout = Duration.seconds(10)
        /// Of what a reader waits for beside its other replicas.
        static let readerTimeout = Duration.seconds(5)
    }

    let channel: LeaderChannel

    /// Asks how the cluster is.
    public func status(_ request: SCMStatusRequest) async throws(StoreError) -> SCMStatusResponse {
        let reply = try await channel.call(
            SCMMethod.status.rawValue, request.encoded, timeout: Limits.timeout,
            repetition: .harmless)
        return try SCMStatusResponse(parsing: reply.message)
    }

    /// Asks what is missing, by replication.
    public func safety() async throws(StoreError) -> SCMSafetyResponse {
        let reply = try await channel.call(
            SCMMethod.safety.rawValue, SCMSafetyRequest().encoded, timeout: Limits.timeout,
            repetition: .harmless)
        return try SCMSafetyResponse(parsing: reply.message)
    }

    /// Has datanodes leave service, or serve again; says how all datanodes are then.
    ///
    /// Throws `invalidArgument` where one is not known, or too few would be left.
    public func operate(
        _ request: SCMOperateRequest
    ) async throws(StoreError) -> [SCMNodeInfo] {
        let reply = try await channel.call(
            SCMMethod.operate.rawValue, request.encoded, timeout: Limits.timeout,
            repetition: .harmless)
        return try SCMStatusResponse(parsing: reply.message).nodes
    }

    /// Has replicas moved from fuller datanodes to emptier ones, or not any more; says how that
    /// stands.
    public func balance(
        _ request: SCMBalanceRequest
    ) async throws(StoreError) -> SCMBalanceResponse {
        let reply = try await channel.call(
            SCMMethod.balance.rawValue, request.encoded, timeout: Limits.timeout,
            repetition: .harmless)
        return try SCMBalanceResponse(parsing: reply.message)
    }

    /// Has a container closed.
    public func closeContainer(_ id: ContainerID) async throws(StoreError) {
        var request = DNContainerRequest()
        request.container = id.rawValue
        _ = try await channel.call(
            SCMMethod.closeContainer.rawValue, request.encoded, timeout: Limits.timeout,
            repetition: .harmless)
    }

    /// Ends safe mode before its conditions are met.
    public func exitSafeMode() async throws(StoreError) {
        var request = SCMSafeModeRequest()
        request.exit = true
        _ = try await channel.call(
            SCMMethod.safeMode.rawValue, request.encoded, timeout: Limits.timeout,
            repetition: .harmless)
    }

    /// Where the replicas of a container are by now; nil if SCM cannot be asked.
    func locate(_ container: ContainerID) async -> [DatanodeAddress?]? {
        var request = SCMLocateRequest()
        request.containers = [container.rawValue]
        do throws(StoreError) {
            let reply = try await channel.call(
                SCMMethod.locate.rawValue, request.encoded, timeout: Limits.readerTimeout,
                repetition: .harmless)
            guard let place = try SCMLocateResponse(parsing: reply.message).places.first else {
                return nil
            }
            var nodes: [DatanodeAddress?] = []
            for node in place.nodes { nodes.append(try DatanodeAddress(node)) }
            return nodes
        } catch {
            // The reader goes on with the other replicas.
            return nil
        }
    }

    /// Tells of a damaged replica, of the index (from 1) that `node` has. Returns at once.
    func reportCorrupt(
        _ block: BlockID, _ index: Int, _ node: DatanodeAddress, _ reason: String
    ) {
        var request = SCMReportCorruptRequest()
        request.block = block.message
        request.replicaIndex = UInt32(index)
        request.node = node.id.message
        request.reason = reason
        let message = request.encoded
        Task { [channel] in
            // The reader goes on with parity either way; SCM hears of it again if this is lost.
            _ = try? await channel.call(
                SCMMethod.reportCorrupt.rawValue, message, timeout: Limits.readerTimeout,
                repetition: .harmless)
        }
    }
}
