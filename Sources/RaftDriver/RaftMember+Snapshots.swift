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

/// How much of a snapshot its receiver has.
public struct SnapshotProgress: Sendable, Equatable {
    public var sent: Int
    public var size: Int
}

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
    /// How far they are.
    var progress: [PeerID: SnapshotProgress] = [:]
    /// Who has not got all of the one that is offered: it goes on with it when it can be reached.
    var unserved: Set<PeerID> = []
    /// Whether somebody cannot take the offered one: who was no member yet when it was written, or
    /// has part of a newer one of an earlier leader. There must be a new one, once nobody is being
    /// given this.
    var isOutdated = false
    /// Ticks since anybody was being given it.
    var idleTicks = 0
    /// While one is being written: the members, each from the entry on after which they are right.
    private var members: [(state: ConfState, index: LogIndex)] = []

    init(_ directory: String, group: GroupID, on reactor: Reactor) {
        self.directory = directory
        self.group = group
        self.reactor = reactor
    }

    /// A snapshot begins to be written, with these members in force.
    mutating func beginWriting(_ members: (ConfState, index: LogIndex)) {
        isWriting = true
        self.members = [(members.0, members.index)]
    }

    /// The members changed, perhaps while a snapshot is being written.
    mutating func membersChanged(to state: ConfState, at index: LogIndex) {
        if isWriting { members.append((state, index)) }
    }

    /// The members that the snapshot which is being written must name: those after its last entry.
    /// nil if they are not known, because the log begins behind it meanwhile.
    func members(at index: LogIndex) -> ConfState? { members.last { $0.index <= index }?.state }

    /// The snapshot is written, or is not.
    mutating func endWriting() {
        isWriting = false
        members = []
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
        guard role == .leader, !isClosed, !snapshots.isWriting, snapshots.receivers.isEmpty,
            let wanted = log.wantedSnapshot
        else { return }
        if let offered = snapshots.offered, offered.header.index >= wanted { return }
        snapshots.beginWriting(log.confState)
        Task(executorPreference: reactor) { await self.tryToWriteSnapshot() }
    }

    private func tryToWriteSnapshot() async {
        do throws(StoreError) {
            try await writeSnapshot()
        } catch {
            snapshotError.withLock { $0 = error }
            try? await reactor.sleep(for: Limits.snapshotRetry)
        }
        snapshots.endWriting()
    }

    private func writeSnapshot() async throws(StoreError) {
        await withdrawSnapshot()
        let path = snapshots.outgoingPath
        // What an attempt that failed has left.
        try? await reactor.remove(path)
        log.hold(after: readable)
        defer { if snapshots.offered == nil { log.hold(after: nil) } }
        let index = try await applier.writeSnapshot(to: path)
        guard !isClosed, let members = snapshots.members(at: index),
            let term = try? log.term(of: index)
        else {
            try? await reactor.remove(path)
            return
        }
        let sender = try await SnapshotSender.open(
            path, group: log.id, index: index, term: term, on: reactor)
        snapshots.offered = sender
        log.hold(after: index)
        log.offer(
            Snapshot(
                metadata: SnapshotMetadata(confState: members, index: index, term: term),
                data: SnapshotRequest(header: sender.header, piece: nil).encoded))
    }

    /// Takes back what was offered, and removes its file.
    private func withdrawSnapshot() async {
        log.offer(nil)
        guard let sender = snapshots.offered else { return }
        log.hold(after: nil)
        snapshots.offered = nil
        snapshots.unserved = []
        snapshots.isOutdated = false
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
        snapshots.progress[message.to] = nil
        snapshots.idleTicks = 0
        guard !isClosed else { return }
        if isDelivered { transport.send([message]) }
        node.reportSnapshot(message.to, isDelivered ? .finished : .failed)
        carryOut()
        await withdrawIfDone()
    }

    /// Withdraws what is offered once all who asked for it have it, or if nobody should.
    private func withdrawIfDone() async {
        guard snapshots.receivers.isEmpty, !snapshots.isWriting,
            snapshots.unserved.isEmpty || snapshots.isOutdated || role != .leader
        else { return }
        await withdrawSnapshot()
    }

    /// The group's clock ticked: who was not reached for long is not waited for any more.
    func tickSnapshots() {
        guard snapshots.offered != nil, snapshots.receivers.isEmpty, !snapshots.isWriting else {
            return
        }
        snapshots.idleTicks += 1
        if role == .leader,
            snapshots.idleTicks < Limits.offerElections * options.electionTicks
        {
            return
        }
        snapshots.idleTicks = 0
        snapshots.unserved = []
        Task(executorPreference: reactor) { await self.withdrawIfDone() }
    }

    private func deliver(_ message: Message) async -> Bool {
        guard let sender = snapshots.offered, let metadata = message.snapshot?.metadata,
            sender.header.index == metadata.index
        else { return false }
        guard metadata.confState.names(message.to) else {
            // It was added after the snapshot was made, and would refuse it for ever.
            snapshots.isOutdated = true
            return false
        }
        snapshots.unserved.insert(message.to)
        do throws(StoreError) {
            var offset = try await transport.deliver(
                SnapshotRequest(header: sender.header, piece: nil), to: message.to)
            while !isClosed, role == .leader {
                snapshots.progress[message.to] = SnapshotProgress(
                    sent: offset, size: sender.header.size)
                guard
                    let piece = try await sender.piece(
                        at: offset, size: options.snapshotPieceBytes)
                else {
                    snapshots.unserved.remove(message.to)
                    return true
                }
                let next = try await transport.deliver(
                    SnapshotRequest(header: sender.header, piece: piece), to: message.to)
                guard next > offset else {
                    throw StoreError(.internal, "a snapshot does not get on at byte \(offset)")
                }
                offset = next
            }
        } catch {
            snapshotError.withLock { $0 = error }
            // What an earlier leader had begun to send is newer, and this one is refused for ever.
            if error.code == .conflict { snapshots.isOutdated = true }
        }
        return false
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
        snapshots.membersChanged(to: log.confState.0, at: log.confState.index)
        readable = snapshot.index
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
