import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Telemetry

// The two loops behind the core: what it wants durable, and what it wants applied.

extension RaftMember {
    // MARK: Making durable

    /// Writes what the core wants durable, all that has gathered with one call, and steps the
    /// answers that wait for it.
    func appendForever() async {
        while var batch = await nextAppends() {
            core.pace.begin(.log, at: reactor.now())
            defer { core.pace.end(.log) }
            if core.appends.begin(&batch) {
                guard await write(batch) else { return }
                core.appends.isWritten(batch)
            }
            core.isDurable(batch.responses)
            carryOut()
        }
    }

    private func nextAppends() async -> AppendQueue.Batch? {
        while !isClosed {
            if let batch = core.appends.next() { return batch }
            // Looked at once more where the continuation is kept: see `nextApplies`.
            await withUnsafeContinuation { continuation in
                if core.appends.isEmpty, !isClosed {
                    idleAppender = continuation
                } else {
                    continuation.resume()
                }
            }
        }
        return nil
    }

    /// Whether the batch is durable; if not, the member has stopped.
    private func write(_ batch: AppendQueue.Batch) async -> Bool {
        let start = reactor.now()
        while !isClosed {
            do throws(StoreError) {
                try await log.append(
                    entries: batch.entries, hardState: batch.hardState, snapshot: batch.snapshot)
                if !batch.entries.isEmpty {
                    measures.noteAppend(
                        of: batch.entries.count, bytes: batch.bytes,
                        took: start.duration(to: reactor.now()))
                }
                goesOn()
                if let snapshot = batch.snapshot {
                    // That takes its time, and says nothing of the disk of the log.
                    core.pace.end(.log)
                    return await install(snapshot)
                }
                return true
            } catch {
                guard error.isTransient else {
                    stop(error)
                    return false
                }
                await waitForSpace(error)
            }
        }
        return false
    }

    /// Does `work`, again and again while it fails for want of room, descriptors or memory, until
    /// the member is closed.
    func whenItCan(
        _ work: () async throws(StoreError) -> Void
    ) async throws(StoreError) {
        while true {
            do throws(StoreError) {
                try await work()
                goesOn()
                return
            } catch {
                guard error.isTransient, !isClosed else { throw error }
                await waitForSpace(error)
            }
        }
    }

    /// What was waited for is there.
    private func goesOn() {
        guard isShort, waitsForSpace == 0 else { return }
        isShort = false
        options.notice?("log and tables go on")
    }

    /// Log or state take nothing for now: new commands are refused until they do. Those that are
    /// in the log already wait: they will be applied.
    private func waitForSpace(_ error: StoreError) async {
        waitsForSpace += 1
        lack = error
        defer { waitsForSpace -= 1 }
        if !isShort {
            isShort = true
            shortSince = core.pace.ticks
            options.notice?("log or tables wait, and are tried again: \(error)")
        }
        // Where another leads or may, that one is to be asked; in a group of one nobody else is.
        // For as long as it may take to hand leadership over, callers wait for that.
        let patience = UInt64(Limits.handoverElections * options.electionTicks)
        let isHandedOver = !isSoleVoter && core.pace.ticks < shortSince + patience
        let told =
            isHandedOver
            ? StoreError(.notLeader, "leadership is handed over: \(error.message)") : error
        if role == .leader || isSoleVoter { inbox.withLock { $0.shortage = told } }
        try? await reactor.sleep(for: Limits.noSpaceRetry)
        inbox.withLock { inbox in
            if inbox.shortage == told { inbox.shortage = nil }
        }
    }

    // MARK: Applying

    /// Applies what is committed, all that has gathered with one call, and answers its proposers.
    func applyForever() async {
        while let messages = await nextApplies() {
            isApplying = true
            core.pace.begin(.state, at: reactor.now())
            defer { core.pace.end(.state) }
            let isApplied = await apply(messages.flatMap(\.entries))
            isApplying = false
            guard isApplied else { return }
            core.isApplied(messages)
            carryOut()
        }
    }

    private func nextApplies() async -> [Message]? {
        while !isClosed {
            if !core.applies.isEmpty { return core.takeApplies() }
            // Looked at once more where the continuation is kept: the call may leave the actor for
            // a moment, and who adds something then would find nobody to wake.
            await withUnsafeContinuation { continuation in
                if core.applies.isEmpty, !isClosed {
                    idleApplier = continuation
                } else {
                    continuation.resume()
                }
            }
        }
        return nil
    }

    /// Applies entries in order; changes of the members are taken into force between those
    /// before and after them. Whether that went well; if not, the member has stopped.
    private func apply(_ entries: [Entry]) async -> Bool {
        var batch: [CommittedCommand] = []
        batch.reserveCapacity(min(entries.count, Limits.appliedAtOnce))
        for entry in entries where entry.index > applier.appliedIndex {
            let pending = core.takeProposed(entry)
            switch entry.kind {
            case .normal:
                core.isNoChange(entry.index)
                batch.append(
                    CommittedCommand(index: entry.index, bytes: entry.data, pending: pending))
                guard batch.count >= Limits.appliedAtOnce else { continue }
                guard await apply(batch) else { return false }
                batch.removeAll(keepingCapacity: true)
            case .confChange, .confChangeV2:
                guard await apply(batch), await change(entry) else { return false }
                let book = (try? ConfChangeV2(entry: entry)).flatMap { MemberBook.change(in: $0) }
                batch = [CommittedCommand(index: entry.index, bytes: [], book: book)]
            }
        }
        return await apply(batch)
    }

    private func apply(_ batch: [CommittedCommand]) async -> Bool {
        guard !batch.isEmpty else { return true }
        let start = reactor.now()
        do throws(StoreError) {
            try await whenItCan { () async throws(StoreError) in try await applier.apply(batch) }
        } catch {
            let pending = batch.compactMap(\.pending)
            release(pending)
            let left = isSoleVoter ? error.leavingOpen : error.leavingOpen(as: .connection)
            for command in pending { command.fail(left) }
            stop(error)
            return false
        }
        measures.transactions.record(start.duration(to: reactor.now()))
        let pending = batch.compactMap(\.pending)
        release(pending)
        for command in batch { command.pending?.succeed(at: command.index) }
        core.pace.begin(.state, at: reactor.now())
        core.isReadable(through: batch[batch.count - 1].index)
        publish()
        return true
    }

    // MARK: Ending

    /// Waits until what is in the log is applied, if it can be without others and without more
    /// room.
    func drain() async {
        while !isClosed,
            !core.proposed.isEmpty || !core.appends.isEmpty || !core.applies.isEmpty || isApplying,
            isAlone.load(ordering: .relaxed), waitsForSpace == 0
        {
            try? await reactor.sleep(for: .milliseconds(1))
        }
    }
}

extension StoreError {
    /// Whether the same may succeed a little later, nothing being broken: a disk is full, or
    /// descriptors or memory are wanting.
    var isTransient: Bool { code == .noSpace || code == .overloaded }
}
