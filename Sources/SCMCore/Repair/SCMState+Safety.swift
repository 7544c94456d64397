import Model
import Wire

// How safe what is stored is: what `apus admin safety` and the metrics show.

extension SCMState {
    /// What is missing now, by replication. Costs what is missing and what is open, not what there
    /// is.
    ///
    /// Of the member that leads; what it has not looked at yet is counted as unknown.
    public mutating func safety(at now: UInt64) -> SCMSafetyResponse {
        if leadingTerm != nil { lookAfterRepairs(at: now) }
        var rows: [ReplicationConfig: SCMSafetyResponse.Row] = [:]
        // Containers by how many replicas they lack.
        var lacking: [ReplicationConfig: [Int: Int]] = [:]
        for (replication, count) in members.counts {
            var row = SCMSafetyResponse.Row()
            row.replication = replication.message
            row.containers = UInt64(count)
            let most = replication.width - replication.minimumReplicas
            row.fullRedundancy = UInt32(most)
            row.leastRedundancy = Int32(most)
            rows[replication] = row
        }
        for (id, found) in repairs.degraded {
            // Of others something is to be elsewhere: they are whole.
            guard let container = containers[id], found.missing > 0 else { continue }
            lacking[container.replication, default: [:]][found.missing, default: 0] += 1
            rows[container.replication]?.add(
                missing: found.missing, redundancy: found.redundancy,
                isRepairable: found.isRepairable, blocks: blocks(of: container))
            if found.waiting > 0 { rows[container.replication]?.waiting += 1 }
        }
        for id in Set(openByReplication.values.joined()).union(inTransition) {
            guard let container = containers[id], container.state != .containerDeleting else {
                continue
            }
            let health = health(of: container, at: now)
            guard !health.missing.isEmpty else { continue }
            lacking[container.replication, default: [:]][health.missing.count, default: 0] += 1
            rows[container.replication]?.add(
                missing: health.missing.count, redundancy: health.redundancy,
                isRepairable: health.redundancy >= 0, blocks: blocks(of: container))
        }
        for id in members.repairing {
            guard let container = containers[id] else { continue }
            rows[container.replication]?.repairs += UInt64(container.repairs.count)
        }
        var response = SCMSafetyResponse()
        let repairSeconds = noteRates(in: &response)
        for replication in rows.keys {
            rows[replication]!.yearsToLoss = yearsToLoss(
                replication, lacking: lacking[replication] ?? [:], repairSeconds: repairSeconds)
        }
        response.rows = rows.sorted { $0.key.description < $1.key.description }.map(\.value)
        response.degradedBlocks = response.rows.reduce(0) { $0 + $1.degradedBlocks }
        response.isInSafeMode = isInSafeMode
        response.unknownContainers = UInt64(repairs.unseen.count)
        response.unheardReplicas = UInt64(
            nodes.keys.reduce(0) { sum, id in
                state(of: id, at: now) == .unheard ? sum + members.containers(of: id).count : sum
            })
        response.repairsEnded = UInt64(repairs.ended)
        response.repairsGivenUp = UInt64(repairs.givenUp)
        return response
    }

    /// Bytes a second that are assumed to be made where none were measured: of one container alone.
    private static let assumedRate = 50.0 * 1024 * 1024

    /// How fast what is lost is rebuilt. Returns the seconds that a disk takes.
    private func noteRates(in response: inout SCMSafetyResponse) -> Double {
        let measured = repairs.meter.rate
        let rate = measured ?? Self.assumedRate
        let volumes = nodes.values.flatMap(\.volumes).filter { !$0.isFailed }
        let used = volumes.reduce(0.0) { $0 + Double($1.used) } / Double(max(volumes.count, 1))
        let wait = options.deadAfterNanoseconds + options.repairAfterNanoseconds
        let seconds = Double(wait) / 1e9 + used / rate
        response.rebuildBytesPerSecond = rate
        response.isRebuildRateMeasured = measured != nil
        response.diskRepairSeconds = seconds
        response.diskFailuresPerYear = options.diskFailuresPerYear
        return seconds
    }

    /// Until one of the containers is likely to be lost.
    private func yearsToLoss(
        _ replication: ReplicationConfig, lacking: [Int: Int], repairSeconds: Double
    ) -> Double {
        let chain = Durability(
            width: replication.width, minimum: replication.minimumReplicas,
            failureRate: options.diskFailuresPerYear,
            repairTime: repairSeconds / (365.25 * 86_400))
        let whole = (members.counts[replication] ?? 0) - lacking.values.reduce(0, +)
        let losses = lacking.reduce(Double(max(whole, 0)) * chain.lossRate(missing: 0)) {
            $0 + Double($1.value) * chain.lossRate(missing: $1.key)
        }
        return 1 / losses
    }

    /// Block groups of a container as its replicas tell; of a closed one that none is reported of,
    /// one at least.
    private func blocks(of container: Container) -> UInt64 {
        let known = container.nodes.indices.compactMap {
            replica(of: container, at: $0)?.blocks
        }
        return known.max() ?? (container.state == .containerClosed ? 1 : 0)
    }

    /// Numbers of repairs for metrics, since this member began to lead.
    public struct RepairCounts: Hashable, Sendable {
        public var begun = 0
        public var ended = 0
        public var givenUp = 0
        /// Replicas of closed containers that are missing, also those being rebuilt.
        public var missing = 0
        /// Containers that wait for their turn.
        public var waiting = 0
        /// Replicas being rebuilt.
        public var underWay = 0
        /// Damaged replicas that are being healed in place; those that were, or could not be, and the
        /// bytes that were written anew.
        public var healsUnderWay = 0
        public var healed = 0
        public var notHealed = 0
        public var healedBytes: UInt64 = 0
    }

    /// Costs what is missing.
    public var repairCounts: RepairCounts {
        RepairCounts(
            begun: repairs.begun, ended: repairs.ended, givenUp: repairs.givenUp,
            missing: repairs.degraded.values.reduce(0) { $0 + $1.missing }, waiting: repairs.count,
            underWay: members.repairing.reduce(0) { $0 + (containers[$1]?.repairs.count ?? 0) },
            healsUnderWay: repairs.heals.underWay, healed: repairs.heals.healed,
            notHealed: repairs.heals.failed, healedBytes: repairs.heals.healedBytes)
    }
}

extension SCMSafetyResponse.Row {
    fileprivate mutating func add(
        missing: Int, redundancy: Int, isRepairable: Bool, blocks: UInt64
    ) {
        degradedContainers += 1
        if !isRepairable { unreadableContainers += 1 }
        missingReplicas += UInt64(missing)
        degradedBlocks += blocks
        leastRedundancy = min(leastRedundancy, Int32(redundancy))
    }
}
