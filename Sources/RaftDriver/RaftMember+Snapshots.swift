import Model
import Raft
import RaftLog
import Reactor
import Synchronization

// Snapshots on their way. The leader writes one when the core asks for it in vain, streams it to
// the follower in pieces, and only then sends the core's message. The follower keeps the file
// until it is installed: log first, then state. A crash in between finds a log that begins behind
// the state, and the file that fills the gap (`fit`).

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
    /// The one that others are given, while anybody needs it.
    var offered: SnapshotSender?
    /// Whether one is being written.
    var isWriting = false
    /// To whom one is being sent.
    var receivers: Set<PeerID> = []

    init(_ directory: String, group: GroupID, on reactor: Reactor) {
        self.directory = directory
        self.group = group
        self.reactor = reactor
    }

    var outgoingPath: String { "\(directory)/outgoing-\(group)" }

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
        guard role == .leader, !snapshots.isWriting, let wanted = log.wantedSnapshot else {
            return
        }
        if let offered = snapshots.offered, offered.header.index >= wanted { return }
        snapshots.isWriting = true
        Task(executorPreference: reactor) { await self.tryToWriteSnapshot() }
    }

    private func tryToWriteSnapshot() async {
        do throws(StoreError) {
            try await writeSnapshot()
        } catch {
            snapshotError.withLock { $0 = error }
            try? await reactor.sleep(for: Limits.snapshotRetry)
        }
        snapshots.isWriting = false
    }

    private func writeSnapshot() async throws(StoreError) {
        await withdrawSnapshot()
        let path = snapshots.outgoingPath
        // What an attempt that failed has left.
        try? await reactor.remove(path)
        let before = log.confState
        let index = try await applier.writeSnapshot(to: path)
        let after = log.confState
        // The members as of the snapshot; they may have changed while it was written.
        let members = after.index <= index ? after.0 : before.0
        guard !isClosed, before.index <= index, let term = try? log.term(of: index) else {
            try? await reactor.remove(path)
            return
        }
        let sender = try await SnapshotSender.open(
            path, group: log.id, index: index, term: term, on: reactor)
        snapshots.offered = sender
        log.offer(
            Snapshot(
                metadata: SnapshotMetadata(confState: members, index: index, term: term),
                data: SnapshotRequest(header: sender.header, piece: nil).encoded))
    }

    /// Takes back what was offered, and removes its file.
    private func withdrawSnapshot() async {
        log.offer(nil)
        guard let sender = snapshots.offered else { return }
        snapshots.offered = nil
        try? await sender.close()
        try? await reactor.remove(snapshots.outgoingPath)
    }

    /// Streams the snapshot of `message` to its receiver, then sends the message.
    func stream(_ message: Message) {
        guard snapshots.receivers.insert(message.to).inserted else { return }
        Task(executorPreference: reactor) { await self.streamAndSend(message) }
    }

    private func streamAndSend(_ message: Message) async {
        let isDelivered = await deliver(message)
        snapshots.receivers.remove(message.to)
        guard !isClosed else { return }
        if isDelivered { transport.send([message]) }
        node.reportSnapshot(message.to, isDelivered ? .finished : .failed)
        carryOut()
        if snapshots.receivers.isEmpty, !snapshots.isWriting { await withdrawSnapshot() }
    }

    private func deliver(_ message: Message) async -> Bool {
        // A member that was added after the snapshot was made would refuse it for ever: it is
        // given a new one when this one is withdrawn.
        guard let sender = snapshots.offered, let metadata = message.snapshot?.metadata,
            sender.header.index == metadata.index, metadata.confState.names(message.to)
        else { return false }
        do throws(StoreError) {
            var offset = try await transport.deliver(
                SnapshotRequest(header: sender.header, piece: nil), to: message.to)
            while !isClosed, role == .leader {
                guard let piece = try await sender.piece(at: offset) else { return true }
                let next = try await transport.deliver(
                    SnapshotRequest(header: sender.header, piece: piece), to: message.to)
                guard next > offset else {
                    throw StoreError(.internal, "a snapshot does not get on at byte \(offset)")
                }
                offset = next
            }
        } catch {
            snapshotError.withLock { $0 = error }
        }
        return false
    }

    // MARK: Receiving

    /// Takes a piece of a snapshot from the leader; returns the offset of the next.
    ///
    /// Throws `conflict` if a newer one is arriving, `overloaded` while another call is at work,
    /// `badRequest` for a piece that is damaged or out of place, `noSpace`, `io`.
    func receive(_ request: SnapshotRequest) async throws(StoreError) -> Int {
        guard !isClosed else { throw StoreError(.notReady, "the group is closed") }
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
        while isApplying || !applies.isEmpty {
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
        groupChanged()
        readsMayGoOn()
        return true
    }

    func endSnapshots() async {
        while !snapshots.receivers.isEmpty || snapshots.isWriting || snapshots.isReceiving {
            try? await reactor.sleep(for: .milliseconds(1))
        }
        try? await snapshots.receiver?.pause()
        snapshots.receiver = nil
        await withdrawSnapshot()
    }
}
