import Model
import Wire

extension SCMState {
    /// What the command line and Recon show.
    public func report(_ request: SCMStatusRequest, at now: UInt64) -> SCMStatusResponse {
        var response = SCMStatusResponse()
        if let cluster { response.cluster = cluster.message }
        response.isInSafeMode = isInSafeMode
        response.safeModeReason = isInSafeMode ? safeModeReason(at: now) ?? "" : ""
        if request.nodes {
            let unknown = unknownReplicas
            response.nodes = nodes.values.sorted { $0.address.id < $1.address.id }.map {
                info($0, unknown: unknown[$0.address.id] ?? 0, at: now)
            }
        }
        if request.containers {
            response.containers = containers.values.sorted { $0.id < $1.id }.filter {
                request.container == 0 || $0.id.rawValue == request.container
            }.map { info($0, at: now) }
        }
        if request.pipelines {
            let open = containers.values.filter { $0.state == .containerOpen }
            response.pipelines = open.sorted { $0.pipeline < $1.pipeline }.map { container in
                var info = SCMPipelineInfo()
                info.id = container.pipeline.rawValue
                info.replication = container.replication.message
                info.nodes = container.nodes.map {
                    $0.flatMap { nodes[$0]?.address.message } ?? WireAddress()
                }
                info.openContainer = container.id.rawValue
                return info
            }
        }
        return response
    }

    /// Replicas of containers that are in no table, by node.
    private var unknownReplicas: [DatanodeID: Int] {
        unknown.reduce(into: [:]) { counts, entry in
            for node in entry.value where nodes[node]?.replicas[entry.key] != nil {
                counts[node, default: 0] += 1
            }
        }
    }

    private func info(_ node: Node, unknown: Int, at now: UInt64) -> SCMNodeInfo {
        var info = SCMNodeInfo()
        info.address = node.address.message
        switch state(of: node.address.id, at: now) {
        case .healthy: info.state = .healthy
        // There is no word for a node that may yet be heard of; both get no new blocks.
        case .stale, .unheard: info.state = .stale
        case .dead: info.state = .dead
        }
        if let last = node.lastHeartbeat {
            info.millisecondsSinceHeartbeat = (now - min(now, last)) / 1_000_000
        }
        info.volumes = node.volumes
        info.containers = UInt64(node.replicas.count)
        info.pendingDeletions = UInt64(deletions.count(of: node.address.id))
        info.unreclaimedBlocks = node.unreclaimedBlocks
        info.unknownReplicas = UInt64(unknown)
        if let progress = progress(of: node.address.id, at: now) { info.operation = progress }
        info.slowDisks = slowDisks(of: node.address.id, at: now)
        return info
    }

    private func info(_ container: Container, at now: UInt64) -> SCMContainerInfo {
        var info = SCMContainerInfo()
        info.id = container.id.rawValue
        info.state = container.state
        info.replication = container.replication.message
        info.pipeline = container.pipeline.rawValue
        info.replicas = (places(of: container.id, at: now) ?? []).map {
            $0?.message ?? WireAddress()
        }
        info.corruptIndexes = damagedIndexes(of: container)
        info.missingIndexes = missingIndexes(container, at: now)
        info.witnessedIndexes = container.witnessed.message
        info.emptyIndexes = container.empty.message
        for case let id? in container.nodes {
            guard let replica = nodes[id]?.replicas[container.id] else { continue }
            info.usedBytes += replica.usedBytes
            info.blocks = max(info.blocks, replica.blocks)
        }
        return info
    }

    /// Replica indexes from 1 on that were placed nowhere, are on dead nodes, are lost or may be,
    /// or, once the container is closed, were not reported by their nodes and are not known to be
    /// empty.
    private func missingIndexes(_ container: Container, at now: UInt64) -> [UInt32] {
        guard container.state != .containerDeleted else { return [] }
        return container.nodes.indices.compactMap { place in
            let isMissing =
                switch presence(of: place, in: container, at: now) {
                case .unplaced, .unheard, .silent: true
                // Of a container that is being removed, replicas go.
                case .lost, .doubtful: container.state != .containerDeleting
                case .unmade: container.state == .containerClosed
                case .here, .empty: false
                }
            return isMissing ? UInt32(place + 1) : nil
        }
    }
}
