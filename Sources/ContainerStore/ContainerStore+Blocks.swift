import ContainerFormat
import Model
import Synchronization

extension ContainerStore {
    /// Block replicas of a container by local ID, a page at a time.
    ///
    /// - Parameters:
    ///   - replicaIndex: which replica is meant; `noSuchContainer` if another one is here.
    ///   - localID: the last one of the page before; nil at first.
    ///   - limit: how many at most; not 0.
    /// - Returns: whether there may be more behind them.
    public nonisolated(nonsending)
        func blocks(
            in id: ContainerID, replicaIndex: Int, after localID: UInt64? = nil, limit: Int
        ) async throws(StoreError) -> (records: [BlockRecord], hasMore: Bool)
    {
        precondition(limit > 0, "a page has blocks")
        let container = try container(id, replicaIndex: replicaIndex)
        try container.volume.check()
        func isBehind(_ entry: BlockEntry) -> Bool { localID.map { entry.localID > $0 } ?? true }
        let found = container.state.withLock { state -> Result<[BlockRecord]?, StoreError> in
            guard !state.isClosed else { return .success(nil) }
            do throws(StoreError) { try container.checkCounts(state) } catch {
                return .failure(error)
            }
            return .success(
                state.blocks.values.compactMap(\.entry)
                    .filter { isBehind($0) && !state.deleted.contains($0.localID) }
                    .map { BlockRecord($0, in: id) })
        }
        if let open = try found.get() {
            let page = open.sorted { $0.id < $1.id }.prefix(limit)
            return (Array(page), page.count < open.count)
        }
        return try await closedBlocks(of: container, after: localID, limit: limit)
    }

    private nonisolated(nonsending)
        func closedBlocks(
            of container: Container, after localID: UInt64?, limit: Int
        ) async throws(StoreError) -> (records: [BlockRecord], hasMore: Bool)
    {
        let pages = try await container.indexTable(cache)
        let deleted = container.state.withLock { $0.deleted }
        var records: [BlockRecord] = []
        let first = localID.flatMap { ContainerIndex.page(of: $0, in: pages) } ?? 0
        for number in first..<pages.count {
            let entries = try await container.indexPage(number, of: pages, cache)
            for entry in entries
            where localID.map { entry.localID > $0 } ?? true && !deleted.contains(entry.localID) {
                if records.count == limit { return (records, true) }
                records.append(BlockRecord(entry, in: container.id))
            }
        }
        return (records, false)
    }
}
