import Bytes
import Checksum
import ContainerStore
import DequeModule
import Model
import Reactor
import Synchronization
import Transport

/// Makes one replica of a closed container from others, by an order of SCM's.
///
/// The blocks of all sources are gone through in order of local ID, a page of each at a time, and
/// `BlockSurvey` decides what is to be rebuilt. What is goes in chunks through a pipeline: each reads
/// d sources, decodes, and appends; chunks behind it read and decode meanwhile, as long as all together
/// take no more than `bytesInFlight`. Chunks of a block are appended in their order.
///
/// What is durable of the replica when this ends early is gone on from by the next one of the same
/// order. It is closed, and counts, only once all is there.
///
/// `run` is called once, on `reactor`.
final class Reconstruction: Sendable {
    enum Limits {
        /// Of a cell that is read, decoded and appended at a time.
        static let chunk = 1 << 20
        /// What a chunk counts for at least, so that there are not too many small ones in flight.
        static let leastCost = 256 << 10
    }

    /// What was done.
    struct Summary: Sendable {
        /// False: the replica was there, closed.
        var wasRebuilt: Bool
        var blocks = 0
        var bytes = 0
        /// Blocks that were durable from an earlier run.
        var resumed = 0
        /// Blocks of some sources that no key refers to.
        var dropped = 0
        var bytesRead = 0
    }

    let order: ReconstructionOrder
    private let store: ContainerStore
    private let sources: SourceReplicas
    private let decoder: ChunkDecoder
    private let survey: BlockSurvey
    private let reactor: Reactor
    private let bytesInFlight: Int

    init(
        _ order: ReconstructionOrder, store: ContainerStore, channels: ChannelPool,
        on reactor: Reactor, bytesInFlight: Int
    ) {
        self.order = order
        self.store = store
        sources = SourceReplicas(
            of: order.container, order.sources, channels: channels, on: reactor)
        decoder = ChunkDecoder(
            name: order.name, coding: order.coding, index: order.index, sources: sources,
            turn: Int(truncatingIfNeeded: order.container.rawValue), on: reactor)
        survey = BlockSurvey(
            coding: order.coding, index: order.index, emptyIndexes: order.emptyIndexes)
        self.reactor = reactor
        self.bytesInFlight = bytesInFlight
    }

    /// Begins or goes on, and returns when the replica is closed. Throws why it could not be rebuilt
    /// now, `cancelled` where the task was; nothing of it is in flight any more then.
    func run() async throws(StoreError) -> Summary {
        if let report = store.report(of: order.container), report.state == .closed,
            report.replicaIndex == order.index, report.replication == order.replication
        {
            return Summary(wasRebuilt: false)
        }
        if order.replaces, store.report(of: order.container)?.state != .recovering {
            try await checkSources()
        }
        try await store.beginRecovery(
            order.container, replication: order.replication, replicaIndex: order.index,
            token: order.token, replacing: order.replaces)
        var progress = Progress(
            own: try store.rebuiltBlocks(in: order.container, token: order.token)[...])
        do throws(StoreError) {
            try await rebuildBlocks(&progress)
            try await settle(&progress, downTo: 0)
        } catch {
            await giveUp(&progress)
            throw error
        }
        try checkCancellation()
        // What earlier runs made of blocks that are deleted by now.
        progress.unwanted += progress.own
        try await store.deleteBlocks(progress.unwanted.map(blockID))
        try await store.finishRecovery(order.container, token: order.token)
        progress.result.bytesRead = sources.bytesRead
        return progress.result
    }

    /// Throws `unavailable` unless as many sources answer as are needed. A damaged replica does not give
    /// way before that: SCM may have given the order long ago, when there were others, and what is
    /// damaged may be all that there is of some block by now.
    private func checkSources() async throws(StoreError) {
        var merge = BlockMerge(sources.usable)
        try await fill(&merge)
        guard survey.knowsBlocks(merge.indexes),
            merge.indexes.subtracting([order.index]).count + order.emptyIndexes.count
                >= order.coding.data
        else {
            throw StoreError(
                .unavailable,
                "\(order.name): too few others answer for the one that is here to give way; "
                    + sources.troubles)
        }
    }

    private func blockID(_ localID: UInt64) -> BlockID {
        BlockID(containerID: order.container, localID: localID)
    }

    private func checkCancellation() throws(StoreError) {
        guard !Task.isCancelled else {
            throw StoreError(.cancelled, "the rebuilding of \(order.name) was ended")
        }
    }

    // MARK: What there is to be done

    /// What a run knows at each moment; of its one task.
    private struct Progress {
        /// Local IDs of blocks that earlier runs left, in order, as far as they have not been met.
        var own: ArraySlice<UInt64>
        /// Those of them that are not to be.
        var unwanted: [UInt64] = []
        /// On their way, the first first.
        var chunks: Deque<Flight> = []
        var cost = 0
        var result = Summary(wasRebuilt: true)
    }

    private struct Flight {
        var chunk: Chunk
        var task: Task<Result<Void, StoreError>, Never>
        var turn: Turn
    }

    /// Goes through the blocks of all sources.
    private func rebuildBlocks(_ progress: inout Progress) async throws(StoreError) {
        var merge = BlockMerge(sources.usable)
        while true {
            try await fill(&merge)
            guard survey.knowsBlocks(merge.indexes) else {
                throw StoreError(
                    .unavailable,
                    "\(order.name): neither index 1 nor a parity index tells what blocks there are; "
                        + sources.troubles)
            }
            guard let (localID, words) = merge.next() else { return }
            try checkCancellation()
            while let first = progress.own.first, first < localID {
                progress.unwanted.append(progress.own.removeFirst())
            }
            let isOwn = progress.own.first == localID
            if isOwn { progress.own.removeFirst() }
            switch survey.decide(words) {
            case .drop:
                progress.result.dropped += 1
                if isOwn { progress.unwanted.append(localID) }
            case .nothing: break
            case .rebuild(let goal): try await rebuild(blockID(localID), goal, &progress)
            }
        }
    }

    /// Gets the pages that are missing, all at a time. A source that does not answer is listened to no
    /// more.
    private func fill(_ merge: inout BlockMerge) async throws(StoreError) {
        let missing = merge.missing
        guard !missing.isEmpty else { return }
        let answers = await withTaskGroup(
            of: SourceAnswer<BlockMerge.Page>.self, returning: [SourceAnswer<BlockMerge.Page>].self
        ) { group in
            for request in missing {
                group.addTask(executorPreference: reactor) { [sources] in
                    let index = request.index
                    do throws(StoreError) {
                        let page = try await sources.blocks(of: index, after: request.after)
                        return SourceAnswer(index: index, result: .success(page))
                    } catch { return SourceAnswer(index: index, result: .failure(error)) }
                }
            }
            var answers: [SourceAnswer<BlockMerge.Page>] = []
            for await answer in group { answers.append(answer) }
            return answers
        }
        try checkCancellation()
        for answer in answers {
            do throws(StoreError) {
                try merge.take(try answer.result.get(), of: answer.index)
            } catch {
                sources.giveUp(answer.index, error)
                merge.drop(answer.index)
            }
        }
    }

    // MARK: One block

    /// Sends what is missing of a block replica into the pipeline.
    private func rebuild(
        _ block: BlockID, _ goal: BlockSurvey.Goal, _ progress: inout Progress
    ) async throws(StoreError) {
        var start = 0
        switch try store.rebuilt(block, token: order.token) {
        case .deleted: return
        case .absent: break
        case .there(let record):
            let isWhole =
                record.length >= goal.length && record.groupLength >= goal.groupLength
                && record.isEnded == goal.isEnded
            guard !isWhole, record.length <= goal.length, !record.isEnded else {
                progress.result.resumed += 1
                return
            }
            start = record.length
            guard start == goal.length || start % ReplicationConfig.checksumUnit == 0 else {
                throw StoreError(
                    .corrupt,
                    "\(order.name): block \(block) has \(start) bytes by now, where "
                        + "\(goal.length) are to be: the sources said otherwise before")
            }
        }
        progress.result.blocks += 1
        let work = BlockWork(block, goal, order.coding)
        repeat {
            let chunk = work.chunk(from: start, of: order)
            let last = progress.chunks.last?.turn
            try await settle(&progress, downTo: max(bytesInFlight - chunk.cost, 0))
            progress.cost += chunk.cost
            progress.result.bytes += chunk.count
            progress.chunks.append(launch(chunk, of: work, after: last))
            start += chunk.count
        } while start < goal.length && !work.isGone
    }

    /// Waits for the first chunks until those that are left take `limit` bytes at most.
    private func settle(_ progress: inout Progress, downTo limit: Int) async throws(StoreError) {
        while progress.cost > limit, let first = progress.chunks.first {
            let result = await withTaskCancellationHandler {
                await first.task.value
            } onCancel: {
                first.task.cancel()
            }
            progress.chunks.removeFirst()
            progress.cost -= first.chunk.cost
            try result.get()
        }
    }

    /// Ends what is in flight.
    private func giveUp(_ progress: inout Progress) async {
        for flight in progress.chunks { flight.task.cancel() }
        for flight in progress.chunks { _ = await flight.task.value }
        progress.chunks = []
    }

    /// Reads, decodes and appends a chunk, in a task of its own.
    ///
    /// Its place in the store is taken once the chunk before it has taken its own: a task is begun to
    /// append it, and then the next may do the same. Tasks of a reactor begin in the order they were
    /// made in.
    private func launch(_ chunk: Chunk, of work: BlockWork, after last: Turn?) -> Flight {
        let turn = Turn()
        let task = Task(executorPreference: reactor) { () -> Result<Void, StoreError> in
            defer { turn.pass() }
            do throws(StoreError) {
                let payload = try await self.decoder.bytes(of: chunk, of: work)
                await last?.wait()
                let append = Task(executorPreference: self.reactor) {
                    await self.append(payload, chunk, of: work)
                }
                turn.pass()
                return await append.value
            } catch {
                return await self.outcome(of: error, work)
            }
        }
        return Flight(chunk: chunk, task: task, turn: turn)
    }

    private func append(
        _ payload: Payload, _ chunk: Chunk, of work: BlockWork
    ) async -> Result<Void, StoreError> {
        guard !work.isGone, !work.hasFailed else { return .success(()) }
        let cell = CellAppend(
            block: work.block, replicaIndex: order.index, replication: order.replication,
            offset: chunk.offset, payload: payload,
            checksums: payload.withBytes { CRC32C.ofUnits($0) },
            groupLength: chunk.groupLength, endOfBlock: chunk.isLast && work.goal.isEnded)
        do throws(StoreError) {
            try await store.appendRebuilt(cell, token: order.token)
            return .success(())
        } catch { return await outcome(of: error, work) }
    }

    /// A block that is deleted while it is rebuilt is no failure: what there is of it goes as well.
    private func outcome(
        of error: StoreError, _ work: BlockWork
    ) async -> Result<Void, StoreError> {
        guard error.code == .noSuchBlock else {
            work.fail()
            return .failure(error)
        }
        guard work.go() else { return .success(()) }
        do throws(StoreError) {
            try await store.deleteBlocks([work.block])
            return .success(())
        } catch { return .failure(error) }
    }
}
