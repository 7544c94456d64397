import Bytes
import ErasureCode
import Model
import Reactor
import Synchronization

/// Reads stripes of one block group; rebuilds what is missing, damaged or late.
///
/// Thread-safe: what it learns of lost replicas is shared by all stripes it reads.
final class GroupReader: Sendable {
    let group: BlockGroup
    private let geometry: StripeGeometry
    private let codec: Codec
    private let client: DatanodeClient
    private let reactor: Reactor
    private let reporter: @Sendable (BlockID, Int, DatanodeAddress, String) -> Void
    /// Where the replicas of a container are by now, of whoever knows.
    typealias Locator = @Sendable (ContainerID) async -> [DatanodeAddress?]?

    private let locate: Locator
    private let places: Mutex<Places>

    private struct Places {
        var nodes: [DatanodeAddress?]
        /// Places (from 0) that gave no bytes, with the reason.
        var lost: [Int: StoreError] = [:]
        /// They are being asked for again, or were: once is enough for the life of a reader.
        var asking: Task<Void, Never>?

        init(_ nodes: [DatanodeAddress?]) {
            self.nodes = nodes
            for (place, node) in nodes.enumerated() where node == nil {
                lost[place] = StoreError(.unavailable, "no datanode known")
            }
        }
    }

    /// - Parameter codec: of the group's own coding.
    init(
        _ group: BlockGroup, codec: Codec, client: DatanodeClient, on reactor: Reactor,
        locate: @escaping Locator,
        reportCorrupt: @escaping @Sendable (BlockID, Int, DatanodeAddress, String) -> Void
    ) {
        precondition(
            group.replication == .erasureCoded(codec.coding), "a group is read with its own codec")
        self.group = group
        self.codec = codec
        self.client = client
        self.reactor = reactor
        reporter = reportCorrupt
        geometry = StripeGeometry(codec.coding, groupLength: group.length)
        self.locate = locate
        places = Mutex(Places(group.nodes))
    }

    private func node(at place: Int) -> DatanodeAddress? { places.withLock { $0.nodes[place] } }

    /// The parts of stripes that `range` of the group's bytes lies in, by stripe.
    func stripes(in range: Range<Int>) -> [[StripeGeometry.CellRange]] {
        var result: [[StripeGeometry.CellRange]] = []
        for part in geometry.cells(in: range) {
            if let last = result.last?.first, last.stripe == part.stripe {
                result[result.count - 1].append(part)
            } else {
                result.append([part])
            }
        }
        return result
    }

    /// The bytes of `parts`, which belong to one stripe, in order.
    /// - Throws: `unavailable`, naming what is missing, when fewer than d cells can be had.
    func read(_ parts: [StripeGeometry.CellRange]) async throws(StoreError) -> [Payload] {
        if parts.allSatisfy({ isPromising($0.cell) || isToBeTried($0.cell) }) {
            if let payloads = await readDirectly(parts) { return payloads }
        }
        return try await readDegraded(parts)
    }

    private func isPromising(_ place: Int) -> Bool {
        let node = places.withLock { $0.lost[place] == nil ? $0.nodes[place] : nil }
        guard let node else { return false }
        return !client.health.shouldAvoid(node.id, at: reactor.now())
    }

    /// Whether this read is to show whether a node is well again that was late.
    private func isToBeTried(_ place: Int) -> Bool {
        let node = places.withLock { $0.lost[place] == nil ? $0.nodes[place] : nil }
        return node.map { client.health.takeTrial(of: $0.id, at: reactor.now()) } ?? false
    }

    /// Reads each part from its own replica; nil if one could not be read, or not in time.
    private func readDirectly(_ parts: [StripeGeometry.CellRange]) async -> [Payload]? {
        if parts.count == 1 { return await readInTime(parts[0]).map { [$0] } }
        return await withTaskGroup(of: (Int, Payload?).self) { group in
            for (index, part) in parts.enumerated() {
                group.addTask(executorPreference: reactor) {
                    (index, await self.readInTime(part))
                }
            }
            var payloads = [Payload?](repeating: nil, count: parts.count)
            for await (index, payload) in group {
                guard let payload else {
                    group.cancelAll()
                    return nil
                }
                payloads[index] = payload
            }
            return payloads.compactMap { $0 }
        }
    }

    private func canDoWithout(_ cell: Int) -> Bool {
        group.nodes.indices.count { $0 != cell && isPromising($0) } >= codec.coding.data
    }

    /// Reads a part, giving up when its node is late beyond its own habit and enough others are
    /// there to do without it. A late node is avoided for a while, so that the others are asked.
    ///
    /// Lateness is the deadline of the call, so that a read in time costs no timer of its own; if
    /// the late node is needed after all it is asked once more.
    private func readInTime(_ part: StripeGeometry.CellRange) async -> Payload? {
        guard let node = node(at: part.cell) else { return nil }
        let patience = client.health.lateAfter(node.id)
        switch await readCell(part, patience: patience) {
        case .bytes(let payload): return payload
        case .failed: return nil
        case .late where Task.isCancelled || canDoWithout(part.cell): return nil
        case .late: return await readCell(part)
        }
    }

    private enum Outcome: Sendable {
        case bytes(Payload)
        case failed
        case late
    }

    /// Reads a part from its replica, however long it takes.
    private func readCell(_ part: StripeGeometry.CellRange) async -> Payload? {
        if case .bytes(let payload) = await readCell(
            part, patience: DatanodeClient.Limits.readTimeout)
        {
            return payload
        }
        return nil
    }

    /// Reads a part from its replica. Failures are noted and reported; cancellation is not one.
    private func readCell(
        _ part: StripeGeometry.CellRange, patience: Duration
    ) async -> Outcome {
        guard let node = node(at: part.cell) else { return .failed }
        do throws(StoreError) {
            return .bytes(
                try await client.read(
                    DatanodeClient.Replica(of: group, at: part.cell), part.replicaRange,
                    from: node, on: reactor, patience: patience))
        } catch {
            guard error.code != .cancelled else { return .failed }
            if error.code == .deadlineExceeded, patience < DatanodeClient.Limits.readTimeout {
                return .late
            }
            places.withLock { $0.lost[part.cell] = error }
            if error.code == .noSuchContainer, await isElsewhere(part.cell, not: node) {
                return await readCell(part, patience: patience)
            }
            if error.code == .corrupt {
                reporter(group.blockID, part.replicaIndex, node, error.message)
            }
            return .failed
        }
    }

    /// True if the replica at `place` is on another node by now than `old`, which has not got it.
    private func isElsewhere(_ place: Int, not old: DatanodeAddress) async -> Bool {
        await askWhereTheyAre()
        return node(at: place) != old
    }

    /// Asks where the replicas are by now, once; whoever comes later waits for the same answer.
    private func askWhereTheyAre() async {
        let asking = places.withLock { places in
            let asking =
                places.asking
                ?? Task(executorPreference: reactor) {
                    if let fresh = await self.locate(self.group.blockID.containerID) {
                        self.take(fresh)
                    }
                }
            places.asking = asking
            return asking
        }
        await asking.value
    }

    private func take(_ fresh: [DatanodeAddress?]) {
        guard fresh.count == group.nodes.count else { return }
        places.withLock { places in
            for place in fresh.indices where fresh[place] != places.nodes[place] {
                guard let node = fresh[place] else { continue }
                places.nodes[place] = node
                places.lost[place] = nil
            }
        }
    }

    /// Reads the same range of d cells, whichever can be had, and decodes the others.
    private func readDegraded(
        _ parts: [StripeGeometry.CellRange]
    ) async throws(StoreError) -> [Payload] {
        let stripe = parts[0].stripe
        let lower =
            parts.map(\.range.lowerBound).min()! / ReplicationConfig.checksumUnit
            * ReplicationConfig.checksumUnit
        let union = lower..<parts.map(\.range.upperBound).max()!
        let cells = try await gather(stripe, union, wanted: Set(parts.map(\.cell)))
        let missing = parts.filter { cells[$0.cell] == nil }
        var rebuilt: [Int: Payload] = [:]
        if !missing.isEmpty {
            rebuilt = try decode(stripe, union, cells, missing.map(\.cell))
        }
        return parts.map { part in
            let payload = cells[part.cell] ?? rebuilt[part.cell]
            precondition(payload != nil, "each part was read or rebuilt")
            let start = part.range.lowerBound - union.lowerBound
            return payload!.slice(start..<start + part.range.count)
        }
    }

    /// Range `union` of at least d cells of the stripe, those in `wanted` first.
    private func gather(
        _ stripe: Int, _ union: Range<Int>, wanted: Set<Int>
    ) async throws(StoreError) -> [Payload?] {
        let coding = codec.coding
        var cells = [Payload?](repeating: nil, count: coding.width)
        let empty = reactor.pool.allocate(1)
        // Cells that the group never reached are zeros that nobody stores.
        for cell in 0..<coding.data
        where geometry.cellRange(stripe: stripe, cell: cell, union).range.isEmpty {
            cells[cell] = Payload(empty, 0..<0)
        }
        var tried: [Int: DatanodeAddress] = [:]
        var late: Set<Int> = []
        var mayAskAvoided = false
        var hasAsked = false
        while cells.count(where: { $0 != nil }) < coding.data {
            let needed = coding.data - cells.count { $0 != nil }
            let candidates = (0..<coding.width).filter { place in
                cells[place] == nil && tried[place] == nil && node(at: place) != nil
                    && (mayAskAvoided || isPromising(place))
            }.sorted { (wanted.contains($0) ? 0 : 1, $0) < (wanted.contains($1) ? 0 : 1, $1) }
            guard !candidates.isEmpty else {
                // The last resort: those that failed or were late before.
                if !mayAskAvoided {
                    mayAskAvoided = true
                    for place in late { tried[place] = nil }
                    continue
                }
                // Or those that were rebuilt on other nodes since the key was looked up.
                if !hasAsked {
                    hasAsked = true
                    await askWhereTheyAre()
                    tried = tried.filter { node(at: $0.key) == $0.value }
                    continue
                }
                throw unreadable(stripe, found: cells.count { $0 != nil })
            }
            let chosen = candidates.prefix(needed)
            for place in chosen { tried[place] = node(at: place) }
            let outcomes = await fetch(stripe, union, Array(chosen), isPatient: mayAskAvoided)
            for (place, outcome) in outcomes {
                switch outcome {
                case .bytes(let payload): cells[place] = payload
                case .late: late.insert(place)
                case .failed: break
                }
            }
            if Task.isCancelled { throw StoreError(.cancelled, "the read was cancelled") }
        }
        return cells
    }

    /// - Parameter isPatient: wait for late nodes: there are no others.
    private func fetch(
        _ stripe: Int, _ union: Range<Int>, _ places: [Int], isPatient: Bool
    ) async -> [(Int, Outcome)] {
        await withTaskGroup(of: (Int, Outcome).self) { group in
            for place in places {
                guard let node = node(at: place) else { continue }
                let part = geometry.cellRange(stripe: stripe, cell: place, union)
                let patience =
                    isPatient
                    ? DatanodeClient.Limits.readTimeout : client.health.lateAfter(node.id)
                group.addTask(executorPreference: reactor) {
                    (place, await self.readCell(part, patience: patience))
                }
            }
            var results: [(Int, Outcome)] = []
            for await result in group { results.append(result) }
            return results
        }
    }

    private func decode(
        _ stripe: Int, _ union: Range<Int>, _ cells: [Payload?], _ missing: [Int]
    ) throws(StoreError) -> [Int: Payload] {
        var rebuilt: [Int: Payload] = [:]
        var wanted: [Codec.WantedCell] = []
        for cell in missing {
            let count = geometry.cellRange(stripe: stripe, cell: cell, union).range.count
            let buffer = reactor.pool.allocate(max(count, 1))
            rebuilt[cell] = Payload(buffer, 0..<count)
            wanted.append(Codec.WantedCell(index: cell, bytes: buffer.bytes(in: 0..<count)))
        }
        let sources = cells.map { payload in
            payload.map {
                UnsafeRawBufferPointer($0.buffer.bytes(in: $0.offset..<$0.offset + $0.count))
            }
        }
        do throws(ErasureCodeError) {
            try codec.decode(sources, into: wanted)
        } catch {
            throw StoreError(.unavailable, "\(group.blockID): \(error)")
        }
        withExtendedLifetime(cells) {}
        return rebuilt
    }

    private func unreadable(_ stripe: Int, found: Int) -> StoreError {
        let reasons = places.withLock { $0.lost }.sorted { $0.key < $1.key }.map { place, error in
            "index \(place + 1) (\(node(at: place)?.description ?? "never placed")): "
                + error.message
        }
        return StoreError(
            .unavailable,
            "stripe \(stripe) of block \(group.blockID) needs \(codec.coding.data) of "
                + "\(codec.coding.width) cells and has \(found): "
                + reasons.joined(separator: "; "))
    }
}
