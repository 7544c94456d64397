import ErasureCode
import Model
import Reactor

extension ClusterClient {
    /// Reads every replica of the groups of `info`, one group after the other, and calls `body` with
    /// what was found of each. Where the replicas are is asked anew. As a scrub does, it gives way
    /// to clients on the disks.
    ///
    /// - Throws: `unsupported` for a group that is not erasure-coded, before it is looked at.
    public nonisolated(nonsending)
        func verifyReplicas(
            _ info: KeyInfo, _ body: (GroupFinding) async throws -> Void
        ) async throws
    {
        let reactor = reactors.here()
        var client = datanodes
        client.context = .scrub
        for group in info.blockGroups {
            let coding = try group.replication.erasureCoding()
            let fresh = await scm.locate(group.blockID.containerID)
            let isKnown = fresh?.count == group.nodes.count
            let verifier = GroupVerifier(
                group, at: isKnown ? fresh ?? group.nodes : group.nodes, codec: codec(coding),
                client: client, on: reactor)
            try await body(
                await Task(executorPreference: reactor) { await verifier.verify() }.value)
        }
    }
}
