import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor
import Synchronization
import Telemetry

/// Which bytes of the data file make up a range of a block, and what they must check to.
struct ReadPlan: Sendable {
    /// A run of the data file and where it goes in the buffer. Both begin at multiples of 4 KiB.
    struct Segment: Sendable {
        var fileOffset: Int
        var bufferOffset: Int
        var length: Int
    }

    /// The bytes of the block, rounded out to units and cut at its end.
    var range: Range<Int>
    var segments: [Segment] = []
    var checksums: [UInt32]

    /// The plan to read `wanted` of `entry`. Precondition: it lies within the block and is not
    /// empty.
    init(_ entry: BlockEntry, _ wanted: Range<Int>) {
        let unit = ReplicationConfig.checksumUnit
        let lower = wanted.lowerBound / unit * unit
        let upper = min(entry.length, (wanted.upperBound + unit - 1) / unit * unit)
        range = lower..<upper
        checksums = Array(entry.checksums[lower / unit..<(upper + unit - 1) / unit])
        var position = lower
        var index = entry.cellIndex(at: lower)
        while position < upper {
            let cell = entry.cells[index]
            let end = min(cell.end, upper)
            let fileOffset = cell.fileOffset + position - cell.offset
            if let last = segments.last, last.fileOffset + last.length == fileOffset {
                segments[segments.count - 1].length += end - position
            } else {
                segments.append(
                    Segment(
                        fileOffset: fileOffset, bufferOffset: position - lower,
                        length: end - position))
            }
            position = end
            index += 1
        }
    }
}

extension Container {
    /// See `ContainerStore.read`.
    nonisolated(nonsending)
        func read(
            _ block: BlockID, _ range: Range<Int>, into target: AlignedBuffer?,
            cache: ClosedCache, _ context: IOContext
        ) async throws(StoreError) -> BlockRead
    {
        try volume.check()
        guard range.count <= ContainerStore.Limits.readBytes else {
            throw StoreError(
                .badRequest,
                "a read of \(range.count) bytes: at most "
                    + "\(ContainerStore.Limits.readBytes) at a time")
        }
        let (found, file) = try await plan(block, range, cache: cache)
        guard let plan = found else {
            let nothing = Payload(volume.reactor.pool.allocate(1), 0..<0)
            return BlockRead(payload: nothing, range: range, checksums: [])
        }
        let needed = DataFile.aligned(plan.range.count)
        let buffer =
            if let target, target.capacity >= needed { target } else {
                volume.reactor.pool.allocate(needed)
            }
        try await readSegments(plan, of: file, into: buffer, block, context)
        try verify(plan, buffer, block)
        volume.committer.count { $0.bytesRead += plan.range.count }
        return BlockRead(
            payload: Payload(buffer, 0..<plan.range.count), range: plan.range,
            checksums: plan.checksums)
    }

    /// The plan and the data file; no plan for an empty range.
    nonisolated(nonsending)
        private func plan(
            _ block: BlockID, _ range: Range<Int>, cache: ClosedCache
        ) async throws(StoreError) -> (ReadPlan?, File)
    {
        func plan(_ entry: BlockEntry) throws(StoreError) -> ReadPlan? {
            guard range.lowerBound >= 0, range.upperBound <= entry.length else {
                throw StoreError(
                    .badRequest,
                    "bytes \(range) of block \(block), which has \(entry.length) here")
            }
            return range.isEmpty ? nil : ReadPlan(entry, range)
        }
        let open = state.withLock { state -> Result<(ReadPlan?, File), StoreError>? in
            guard !state.isClosed else { return nil }
            do throws(StoreError) {
                try checkCounts(state)
                guard !state.deleted.contains(block.localID),
                    let entry = state.blocks[block.localID]?.entry
                else { throw noSuchBlock(block) }
                guard let file = state.dataFile else {
                    throw StoreError(.corrupt, "\(name) has lost its data file")
                }
                return .success((try plan(entry), file))
            } catch { return .failure(error) }
        }
        if let open { return try open.get() }
        let entry = try await closedEntry(block, cache: cache)
        return (try plan(entry), try await cache.dataFile(of: self))
    }

    func noSuchBlock(_ block: BlockID) -> StoreError {
        StoreError(.noSuchBlock, "\(name) has no block \(block)")
    }

    nonisolated(nonsending)
        private func readSegments(
            _ plan: ReadPlan, of file: File, into buffer: AlignedBuffer, _ block: BlockID,
            _ context: IOContext
        ) async throws(StoreError)
    {
        if plan.segments.count == 1 {
            return try await readSegment(plan.segments[0], of: file, into: buffer, block, context)
        }
        let failure = await withTaskGroup(of: StoreError?.self) { group in
            for segment in plan.segments {
                group.addTask {
                    do throws(StoreError) {
                        try await self.readSegment(
                            segment, of: file, into: buffer, block, context)
                        return nil
                    } catch { return error }
                }
            }
            var failure: StoreError?
            for await error in group { failure = failure ?? error }
            return failure
        }
        if let failure { throw failure }
    }

    nonisolated(nonsending)
        private func readSegment(
            _ segment: ReadPlan.Segment, of file: File, into buffer: AlignedBuffer,
            _ block: BlockID, _ context: IOContext
        ) async throws(StoreError)
    {
        let count: Int
        let stretch = DiskStretch(of: context.trace, on: volume.disk)
        defer { stretch?.end(.disk, "read", on: volume.disk, bytes: segment.length) }
        do throws(IOError) {
            let end = segment.bufferOffset + DataFile.aligned(segment.length)
            count = try await file.read(
                into: buffer, segment.bufferOffset..<end, at: segment.fileOffset,
                for: context)
        } catch {
            guard error.kind == .disk else { throw volume.refusal(for: error) }
            markDamaged("a read failed: \(error.description)", block: block.localID)
            throw StoreError(.io, "\(name), block \(block): \(error.description)")
        }
        guard count >= segment.length else {
            let text =
                "\(name), block \(block): the data file ends at "
                + "\(segment.fileOffset + count), within the block"
            markDamaged(text, block: block.localID)
            throw StoreError(.corrupt, text)
        }
    }

    private func verify(
        _ plan: ReadPlan, _ buffer: AlignedBuffer, _ block: BlockID
    ) throws(StoreError) {
        do throws(UnitMismatch) {
            try CRC32C.verifyUnits(
                UnsafeRawBufferPointer(buffer.bytes(in: 0..<plan.range.count)),
                against: plan.checksums)
        } catch {
            // Punched while it was read: that is no damage.
            if state.withLock({ $0.deleted.contains(block.localID) }) { throw noSuchBlock(block) }
            var offset = plan.range.lowerBound
            if case .unit(let index, _, _) = error {
                offset += index * ReplicationConfig.checksumUnit
            }
            let text =
                "\(name), block \(block), offset \(offset): the bytes read do not match "
                + "their checksum"
            markDamaged(text, block: block.localID)
            throw StoreError(.corrupt, text)
        }
    }

    /// Reports the replica as unhealthy from now on, and after the next start too, until it was healed.
    /// - Parameters:
    ///   - block: whose cells are damaged; nil: something else, or it is not known.
    ///   - isTakenUp: who found it heals the replica, and sees to it.
    func markDamaged(_ reason: String, block: UInt64? = nil, isTakenUp: Bool = false) {
        guard volume.failure == nil else { return }
        let isNew = state.withLock { state in
            if !isTakenUp { state.suspicion.add(block) }
            defer { if state.damage == nil { state.damage = reason } }
            return state.damage == nil && state.phase != .deleted
        }
        if isNew { note(.unhealthy) }
    }
}

extension ContainerState {
    var isClosed: Bool { if case .closed = phase { true } else { false } }
}
