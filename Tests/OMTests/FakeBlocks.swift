import Model
import OM
import Reactor
import Synchronization

/// SCM as the Ozone Manager sees it: nodes, blocks on them, what was asked.
final class FakeBlocks: BlockAllocator {
    struct State {
        var nodes: [DatanodeAddress]
        var next: UInt64 = 1
        var places: [ContainerID: [DatanodeAddress?]] = [:]
        var allocations: [Int] = []
        var locates = 0
        var deleted: [BlockID] = []
        /// Sizes of the requests that brought them.
        var deletions: [Int] = []
        /// Blocks that a request fails with, wherever it is asked.
        var refused: Set<BlockID> = []
        var failure: StoreError?
        /// It does not answer, however long that takes.
        var isSilent = false
        /// Those who wait for groups.
        var waiting = 0
        var patiences: [Duration?] = []
        var closings: [ContainerID] = []
    }

    let state: Mutex<State>

    init(nodes: Int = 6) {
        state = Mutex(
            State(
                nodes: (1...nodes).map {
                    DatanodeAddress(
                        id: DatanodeID(high: 0, low: UInt64($0)), host: "h\($0)", port: 9000)
                }))
    }

    func with<R>(_ body: (inout sending State) -> sending R) -> R { state.withLock(body) }

    /// From now on whatever it is asked fails; with nil, it does not.
    func fail(with error: StoreError?) { state.withLock { $0.failure = error } }

    /// How long those who asked for groups would wait.
    var patiences: [Duration?] { state.withLock { $0.patiences } }

    func allocate(
        _ replication: ReplicationConfig, count: Int, excluding: ExcludeList, patience: Duration?
    ) async throws(StoreError) -> [BlockGroup] {
        state.withLock {
            $0.patiences.append(patience)
            $0.waiting += 1
        }
        while state.withLock({ $0.isSilent }) { try? await Task.sleep(for: .milliseconds(5)) }
        let result = state.withLock { state -> Result<[BlockGroup], StoreError> in
            state.waiting -= 1
            if let failure = state.failure { return .failure(failure) }
            state.allocations.append(count)
            let nodes = state.nodes.filter { !excluding.nodes.contains($0.id) }
            guard nodes.count >= replication.width else {
                return .failure(
                    StoreError(
                        .cannotPlace,
                        "\(replication) needs \(replication.width) nodes, there are "
                            + "\(nodes.count)"))
            }
            return .success(
                (0..<count).map { _ in
                    let number = state.next
                    state.next += 1
                    let start = Int(number) % nodes.count
                    let chosen = (0..<replication.width).map { nodes[(start + $0) % nodes.count] }
                    let container = ContainerID(number)
                    state.places[container] = chosen
                    return BlockGroup(
                        blockID: BlockID(containerID: container, localID: number * 10),
                        replication: replication, length: 0, nodes: chosen)
                })
        }
        return try result.get()
    }

    func closings(
        since mark: ClosingsMark, watcher: Identity128
    ) async throws(StoreError) -> Closings {
        state.withLock { state in
            let known = mark.term == 1 ? Int(mark.sequence) : 0
            return Closings(
                mark: ClosingsMark(term: 1, sequence: UInt64(state.closings.count)),
                containers: Array(state.closings.dropFirst(known)), isIncomplete: mark.term != 1)
        }
    }

    func delete(_ blocks: [BlockID]) async throws(StoreError) {
        let failure = state.withLock { state -> StoreError? in
            if let failure = state.failure { return failure }
            if let bad = blocks.first(where: state.refused.contains) {
                return StoreError(.invalidArgument, "block \(bad) is none")
            }
            state.deleted += blocks
            state.deletions.append(blocks.count)
            return nil
        }
        if let failure { throw failure }
    }

    func locate(
        _ containers: [ContainerID], _ context: IOContext
    ) async throws(StoreError) -> [ContainerID: [DatanodeAddress?]] {
        let result = state.withLock {
            state -> Result<[ContainerID: [DatanodeAddress?]], StoreError> in
            if let failure = state.failure { return .failure(failure) }
            state.locates += 1
            var found: [ContainerID: [DatanodeAddress?]] = [:]
            for container in containers { found[container] = state.places[container] }
            return .success(found)
        }
        return try result.get()
    }
}
