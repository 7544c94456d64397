import Model
import Wire

// Moves replicas from datanodes that are fuller than others, while an operator wants it: with the
// orders by which replicas are rebuilt, after all that is missing or leaves, and no faster than
// was said.

extension SCMState {
    /// How full the datanodes are that replicas can be moved between.
    struct Fullness {
        struct Node: Sendable {
            var id: DatanodeID
            var rack: String
            var capacity: UInt64
            /// With what is on its way to the node, and without what is on its way from it.
            var used: UInt64
            /// Bytes that the volume with most room has beside what must stay free.
            var room: UInt64

            var part: Double { Double(used) / Double(max(capacity, 1)) }
        }

        /// The fullest first.
        var nodes: [Node]
        var average: Double
        /// How far from the average a node may be.
        var threshold: Double

        var high: Double { average + threshold }
        var low: Double { average - threshold }
        /// Nodes that are fuller or emptier than they may be.
        var outside: Int { nodes.count { $0.part > high || $0.part < low } }

        /// Bytes that have to go from nodes that are too full.
        var bytesLeft: UInt64 {
            nodes.reduce(0) { sum, node in
                sum + UInt64(max(0, node.part - high) * Double(node.capacity))
            }
        }
    }

    func fullness(at now: UInt64) -> Fullness {
        let going = leavingBytes()
        var found = healthyOrFull(at: now).compactMap { id -> Fullness.Node? in
            guard let node = nodes[id] else { return nil }
            let volumes = node.usableVolumes
            let capacity = volumes.reduce(0) { $0 + $1.capacity }
            guard capacity > 0 else { return nil }
            let available = volumes.reduce(0) { $0 + min($1.available, $1.capacity) }
            let most = volumes.map(\.available).max() ?? 0
            let coming = arriving(at: id)
            let used = capacity - available + coming
            let reserved = UInt64(options.minimumFreeBytes) + coming
            return Fullness.Node(
                id: id, rack: node.address.rack, capacity: capacity,
                used: used - min(used, going[id] ?? 0), room: most - min(most, reserved))
        }
        found.sort { ($1.part, $0.id) < ($0.part, $1.id) }
        let capacity = found.reduce(0.0) { $0 + Double($1.capacity) }
        let used = found.reduce(0.0) { $0 + Double($1.used) }
        return Fullness(
            nodes: found, average: used / max(capacity, 1),
            threshold: Double(max(balance.thresholdPercent, 1)) / 100)
    }

    private func healthyOrFull(at now: UInt64) -> [DatanodeID] {
        healthyNodes(at: now, excluding: []) + fullNodes(at: now)
    }

    /// Bytes that repairs have still to write on the node.
    func arriving(at id: DatanodeID) -> UInt64 {
        members.repairs(on: id).reduce(0) { sum, container in
            let written = nodes[id]?.recovering[container]?.usedBytes ?? 0
            let whole = containers[container].map { replicaBytes($0) } ?? 0
            return sum + whole - min(whole, written)
        }
    }

    /// Bytes of replicas that are being moved to others, by node.
    private func leavingBytes() -> [DatanodeID: UInt64] {
        var bytes: [DatanodeID: UInt64] = [:]
        for number in members.repairing {
            guard let container = containers[number] else { continue }
            for repair in container.repairs where repair.reason == .balance {
                guard let id = container.nodes[repair.index - 1] else { continue }
                bytes[id, default: 0] += nodes[id]?.replicas[number]?.usedBytes ?? 0
            }
        }
        return bytes
    }

    // MARK: Deciding

    /// The command by which it begins, or ends; throws `invalidArgument` for what cannot be.
    ///
    /// - Parameter wall: milliseconds since 1970.
    public func balance(
        _ request: SCMBalanceRequest, wall: UInt64
    ) throws(StoreError) -> SCMCommand? {
        switch request.action {
        case .status: return nil
        case .stop:
            guard balance.isRunning else { return nil }
            var next = balance
            next.isRunning = false
            return setting(next)
        case .start:
            guard (1...50).contains(request.thresholdPercent) else {
                throw StoreError(
                    .invalidArgument,
                    "the threshold is 1 to 50 percent, not \(request.thresholdPercent)")
            }
            guard request.bytesPerSecond >= 1 << 20 else {
                throw StoreError(
                    .invalidArgument, "the rate is at least 1 MiB/s; stop it to have it rest")
            }
            var next = SCMBalance()
            next.isRunning = true
            next.thresholdPercent = request.thresholdPercent
            next.bytesPerSecond = request.bytesPerSecond
            next.sinceMilliseconds = wall
            return setting(next)
        case .UNRECOGNIZED(let number):
            throw StoreError(.invalidArgument, "balancing has no action \(number)")
        }
    }

    private func setting(_ next: SCMBalance) -> SCMCommand {
        var change = SCMCommand.SetBalance()
        change.balance = next
        change.fromSinceMilliseconds = balance.sinceMilliseconds
        return SCMCommand(.balance(change))
    }

    /// Moves that begin now, or the end of it once all are alike; nil: none.
    public mutating func dueMoves(
        at now: UInt64, using random: inout some RandomNumberGenerator
    ) -> SCMCommand? {
        guard hasCaughtUp, !isInSafeMode, balance.isRunning, now >= repairs.nextMove,
            repairs.count == 0, repairs.unseen.isEmpty
        else { return nil }
        let fullness = fullness(at: now)
        let isMoving = movesUnderWay > 0
        if fullness.outside == 0 {
            guard !isMoving else {
                repairs.nextMove = now + Limits.balanceRestNanoseconds / 10
                return nil
            }
            var end = balance
            end.isRunning = false
            return setting(end)
        }
        guard let move = nextMove(fullness, at: now, using: &random) else {
            // Where nothing can be moved it is not looked for at each tick.
            repairs.nextMove = now + Limits.balanceRestNanoseconds
            return nil
        }
        let rate = Double(max(balance.bytesPerSecond, 1))
        repairs.nextMove = now + UInt64(Double(move.bytes) / rate * 1e9)
        var change = SCMCommand.StartRepairs()
        change.starts = [move.start]
        return SCMCommand(.startRepairs(change))
    }

    /// Replicas that are being moved from fuller nodes.
    var movesUnderWay: Int {
        members.repairing.reduce(0) { sum, number in
            sum + (containers[number]?.repairs.count { $0.reason == .balance } ?? 0)
        }
    }

    private struct Move {
        var start: SCMCommand.StartRepairs.Start
        var bytes: UInt64
    }

    /// From the fullest node that has something to give to the emptiest that can take it.
    ///
    /// From those that are too full; where there are none, and others are too empty, from those
    /// above the average.
    private func nextMove(
        _ fullness: Fullness, at now: UInt64, using random: inout some RandomNumberGenerator
    ) -> Move? {
        let isHigh = fullness.nodes.contains { $0.part > fullness.high }
        let sources = fullness.nodes.prefix {
            $0.part > (isHigh ? fullness.high : fullness.average)
        }
        let targets = fullness.nodes.reversed().prefix {
            $0.part < (isHigh ? fullness.average : fullness.low)
        }.filter {
            members.repairs(on: $0.id).count < repairBound(of: $0.id)
                && !repairs.isAvoided($0.id, at: now)
        }
        guard !targets.isEmpty else { return nil }
        for source in sources where members.reads(from: source.id) < readBound(of: source.id) {
            // Others each time: of some there may be nowhere to go.
            let some = members.containers(of: source.id).shuffled(using: &random)
            for number in some.prefix(Limits.containersExamined) {
                if let move = move(number, from: source, to: targets, fullness, at: now) {
                    return move
                }
            }
        }
        return nil
    }

    private func move(
        _ number: ContainerID, from source: Fullness.Node, to targets: [Fullness.Node],
        _ fullness: Fullness, at now: UInt64
    ) -> Move? {
        guard let container = containers[number], container.state == .containerClosed,
            container.repairs.isEmpty, let place = container.nodes.firstIndex(of: source.id),
            !container.empty.contains(place + 1), isWhole(container, at: now),
            let bytes = replica(of: container, at: place)?.usedBytes, bytes > 0
        else { return nil }
        var racks: [String: Int] = [:]
        for case let id? in container.nodes {
            if let rack = nodes[id]?.address.rack { racks[rack, default: 0] += 1 }
        }
        let target = targets.first { target in
            // No rack gets more of the container than the one it leaves has.
            let isSpread =
                target.rack == source.rack
                || (racks[target.rack] ?? 0) < (racks[source.rack] ?? 0)
            let after = Double(target.used + bytes) / Double(target.capacity)
            return isSpread && target.room >= bytes && after <= fullness.high
                && !container.members.contains(target.id) && hasNothing(of: container, target.id)
        }
        guard let target else { return nil }
        return Move(
            start: start(place, of: container, on: target.id, for: .balance), bytes: bytes)
    }

    // MARK: Looking

    /// How it stands.
    public func balanceStatus(at now: UInt64) -> SCMBalanceResponse {
        let fullness = fullness(at: now)
        func hundredths(_ part: Double?) -> UInt32 { UInt32(((part ?? 0) * 10_000).rounded()) }
        var response = SCMBalanceResponse()
        response.balance = balance
        response.averageFullness = hundredths(fullness.average)
        response.mostFullness = hundredths(fullness.nodes.first?.part)
        response.leastFullness = hundredths(fullness.nodes.last?.part)
        response.datanodesOutside = UInt32(fullness.outside)
        response.datanodes = UInt32(fullness.nodes.count)
        response.movesUnderWay = UInt64(movesUnderWay)
        response.bytesLeft = fullness.bytesLeft
        response.bytesMoved = repairs.moved
        return response
    }
}

extension SCMState.Limits {
    /// How long nothing is looked for where nothing could be moved.
    static let balanceRestNanoseconds: UInt64 = 10_000_000_000
    /// Containers of a node that are looked at for one to move.
    static let containersExamined = 256
}
