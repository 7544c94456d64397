import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization

// Snapshots on their way. The leader writes one when the core asks for it in vain, streams it to
// the follower in pieces, and only then sends the core's message. What could not be delivered stays
// as it is until its receiver has gone on with it, or is gone for good; the log keeps the entries
// behind it meanwhile. The follower keeps the file until it is installed: log first, then state. A
// crash in between finds a log that begins behind the state, and the file that fills the gap (`fit`).

/// The snapshots of one group on this member's disk.
struct SnapshotStore {
    let directory: String
    let group: GroupID
    let reactor: Reactor
    /// Those that arrived whole, by index.
    var received: Set<LogIndex> = []
    /// One that is arriving.
    var receiver: SnapshotReceiver?
    /// Whether a call of it is at work: one at a time.
    var isReceiving = false
    /// Whom one is given, and until when.
    var offer = SnapshotOffer()
    /// How many have been begun to be written.
    var attempts = 0
    /// The file of the one that is offered.
    var sender: SnapshotSender?

    init(_ directory: String, group: GroupID, on reactor: Reactor) {
        self.directory = directory
        self.group = group
        self.reactor = reactor
    }

    var outgoingPath: String { "\(directory)/outgoing-\(group)-\(attempts)" }

    func path(_ index: LogIndex) -> String {
        SnapshotFile.path(
            SnapshotHeader(group: group, index: index, term: 0, size: 0, checksum: 0),
            in: directory)
    }

    /// Makes the folder, finds what arrived before a restart, and removes what was to be sent.
    mutating func prepare() async throws(StoreError) {
        do throws(IOError) {
            try await reactor.makeDirectory(directory)
            // A file in it is only as durable as the folder.
            try await reactor.synchronizeDirectory(DirectoryPath.parent(of: directory))
            let prefix = "snapshot-\(group)-"
            for name in try await reactor.list(directory) {
                if name.hasPrefix(prefix), let index = LogIndex(name.dropFirst(prefix.count)) {
                    received.insert(index)
                } else if name.hasPrefix("outgoing-\(group)") {
                    try await reactor.remove("\(directory)/\(name)")
                }
            }
            // What was found may have got its name from a process that died before that was durable.
            // From now on the leader is told that it is here, and the log may begin behind it.
            if !received.isEmpty { try await reactor.synchronizeDirectory(directory) }
        } catch {
            throw StoreError(error)
        }
    }

    /// Removes a snapshot that is installed, or of no use any more. What cannot be removed now is
    /// found at the next start.
    func removeFile(_ index: LogIndex) async {
        try? await reactor.remove(path(index))
    }
}

extension ConfState {
    /// Whether a peer is a member.
    fileprivate func names(_ peer: PeerID) -> Bool {
        voters.contains(peer) || learners.contains(peer) || votersOutgoing.contains(peer)
    }
}

extension RaftMember {
    // MARK: Sending

    /// Begins to write a snapshot if the core asked for one that was not there.
    func writeSnapshotIfWanted() {
        guard role == .leader, !isClosed, snapshots.offer.mustWrite(log.wantedSnapshot) else {
            return
        }
        snapshots.offer.beginWriting(log.confState, from: readable)
        Task(executorPreference: reactor) { await self.tryToWriteSnapshot() }
    }

    private func tryToWriteSnapshot() async {
        do throws(StoreError) {
            try await writeSnapshot()
        } catch {
            snapshotError.withLock { $0 = error }
            try? await reactor.sleep(for: Limits.snapshotRetry)
        }
        snapshots.offer.endWriting()
        holdLog()
    }

    private func writeSnapshot() async throws(StoreError) {
        await withdrawSnapshot()
        let before = snapshots.outgoingPath
        // Another name: the file before may be being removed at this moment.
        snapshots.attempts += 1
        let path = snapshots.outgoingPath
        // What an attempt that failed has left.
        try? await reactor.remove(before)
        holdLog()
        let index = try await applier.writeSnapshot(to: path)
        guard !isClosed, let members = snapshots.offer.members(at: index),
            let term = try? log.term(of: index)
        else {
            try? await reactor.remove(path)
            return
        }
        let sender = try await SnapshotSender.open(
            path, group: log.id, index: index, term: term, on: reactor,
            // Nothing is written: it is not held to the rate.
            rest: { [pace = options.snapshotPace] _, time in pace.rest(after: 0, took: time) })
        snapshots.sender = sender
        snapshots.offer.offer(index)
        log.offer(
            Snapshot(
                metadata: SnapshotMetadata(confState: members, index: index, term: term),
                data: SnapshotRequest(header: sender.header, piece: nil).encoded))
    }

    /// Takes back what was offered, and removes its file.
    private func withdrawSnapshot() async {
        log.offer(nil)
        guard let sender = snapshots.sender else { return }
        let path = snapshots.outgoingPath
        snapshots.sender = nil
        snapshots.offer.withdraw()
        holdLog()
        try? await sender.close()
        try? await reactor.remove(path)
    }

    /// Has the log keep what others still need.
    func holdLog() { log.hold(after: snapshots.offer.needed) }

    /// Streams the snapshot of `message` to its receiver, then sends the message.
    func stream(_ message: Message) {
        guard snapshots.offer.begin(message.to) else { return }
        Task(executorPreference: reactor) { await self.streamAndSend(message) }
    }

    private func streamAndSend(_ message: Message) async {
        let isDelivered = await deliver(message)
        snapshots.offer.end(message.to, isDelivered: isDelivered)
        guard !isClosed else { return }
        if isDelivered { transport.send([message]) }
        node.reportSnapshot(message.to, isDelivered ? .finished : .failed)
        carryOut()
        await withdrawIfDone()
    }

    /// Withdraws what is offered once all who asked for it have it, or if nobody should.
    private func withdrawIfDone() async {
        if snapshots.offer.isDone(isLeader: role == .leader) { await withdrawSnapshot() }
    }

    /// The group's clock ticked.
    func tickSnapshots() {
        guard !snapshots.offer.isIdle else { return }
        let patience = Limits.offerElections * options.electionTicks
        snapshots.offer.lookAtInstalling(last: node.lastIndex, patience: patience) { peer in
            guard role == .leader, let found = node.progress.first(where: { $0.peer == peer })
            else { return nil }
            return (found.match, found.recentActive)
        }
        holdLog()
        guard snapshots.offer.tick(isLeader: role == .leader, patience: patience) else { return }
        Task(executorPreference: reactor) { await self.withdrawIfDone() }
    }

    private func deliver(_ message: Message) async -> Bool {
        guard let sender = snapshots.sender, let metadata = message.snapshot?.metadata,
            sender.header.index == metadata.index
        else { return false }
        guard metadata.confState.names(message.to) else {
            // It was added after the snapshot was made, and would refuse it for ever.
            snapshots.offer.isOutdated = true
            return false
        }
        snapshots.offer.isNeeded(by: message.to)
        do throws(StoreError) {
            var offset = try await transport.deliver(
                SnapshotRequest(header: sender.header, piece: nil), to: message.to)
            while !isClosed, role == .leader {
                snapshots.offer.progress[message.to] = SnapshotProgress(
                    sent: offset, size: sender.header.size)
                guard
                    let piece = try await sender.piece(
                        at: offset, size: options.snapshotPieceBytes)
                else { return true }
                let began = reactor.now()
                let next = try await transport.deliver(
                    SnapshotRequest(header: sender.header, piece: piece), to: message.to)
                guard next > offset else {
                    throw StoreError(.internal, "a snapshot does not get on at byte \(offset)")
                }
                await rest(after: next - offset, since: began)
                offset = next
            }
        } catch {
            snapshotError.withLock { $0 = error }
            // What an earlier leader had begun to send is newer, and this one is refused for ever.
            if error.code == .conflict { snapshots.offer.isOutdated = true }
        }
        return false
    }

    /// What the receiver's disk took is in the time of the call: where that is slow, or busy with
    /// its log, it is left alone for longer.
    private func rest(after bytes: Int, since began: MonotonicTime) async {
        let pause = options.snapshotPace.rest(
            after: bytes, took: began.duration(to: reactor.now()))
        if pause > .zero { try? await reactor.sleep(for: pause) }
    }

    // MARK: Receiving

    /// Takes a piece of a snapshot from the leader; returns the offset of the next.
    ///
    /// Throws `conflict` if a newer one is arriving, `overloaded` while another call is at work,
    /// `badRequest` for a piece that is damaged or out of place, `noSpace`, `io`.
    func receive(_ request: SnapshotRequest) async throws(StoreError) -> Int {
        guard !isClosed else { throw StoreError(.notLeader, "the group is closed") }
        let header = request.header
        guard !snapshots.received.contains(header.index) else { return header.size }
        guard !snapshots.isReceiving else {
            throw StoreError(.overloaded, "a piece of the snapshot is being written")
        }
        snapshots.isReceiving = true
        defer { snapshots.isReceiving = false }
        do throws(StoreError) {
            if snapshots.receiver?.header != header {
                snapshots.receiver = try await SnapshotReceiver.begin(
                    header, in: snapshots.directory, on: reactor)
            }
            guard let receiver = snapshots.receiver else { return 0 }
            if let piece = request.piece { try await receiver.write(piece) }
            let next = await receiver.nextOffset
            if next == header.size {
                _ = try await receiver.finish()
                snapshots.receiver = nil
                snapshots.received.insert(header.index)
            }
            return next
        } catch {
            // A piece out of place changes nothing; anything else begins from what is durable.
            if error.code != .badRequest { snapshots.receiver = nil }
            throw error
        }
    }

    /// Whether the core may be told of a snapshot: its file is here.
    func isHere(_ message: Message) -> Bool {
        guard let snapshot = message.snapshot else { return true }
        return snapshots.received.contains(snapshot.metadata.index)
    }

    /// Puts a snapshot, of which the log knows, in place of the state. Whether that went well; if
    /// not, the member has stopped.
    func install(_ snapshot: SnapshotMetadata) async -> Bool {
        // What was committed before is applied first, also what only waits for its turn: the state
        // must not be changed by both at once. The core hands out nothing more until this is done.
        while isApplying || !core.applies.isEmpty {
            if isClosed { return false }
            try? await reactor.sleep(for: .milliseconds(1))
        }
        do throws(StoreError) {
            try await whenItCan { () async throws(StoreError) in
                try await applier.installSnapshot(
                    from: snapshots.path(snapshot.index), index: snapshot.index)
            }
        } catch {
            stop(error)
            return false
        }
        for index in snapshots.received.filter({ $0 <= snapshot.index }) {
            snapshots.received.remove(index)
            await snapshots.removeFile(index)
        }
        snapshots.offer.membersChanged(to: log.confState.0, at: log.confState.index)
        core.membersChanged(to: log.confState.0)
        core.isReadable(through: snapshot.index)
        publish()
        return true
    }

    func endSnapshots() async {
        while !snapshots.offer.receivers.isEmpty || snapshots.offer.isWriting
            || snapshots.isReceiving
        {
            try? await reactor.sleep(for: .milliseconds(1))
        }
        try? await snapshots.receiver?.pause()
        snapshots.receiver = nil
        await withdrawSnapshot()
    }
}
