import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization

/// Applies committed commands to the tables, and keeps the log short: when enough has been
/// applied it has the tables made durable and drops what they no longer need of the log.
final class TablesApplier: CommandApplier {
    private struct State {
        var bytesSinceCheckpoint = 0
        /// How long the database's own log was when the last checkpoint began: where that did not
        /// help, the next waits until it has grown.
        var longLog = 0
        var checkpoint: Task<Void, Never>?
        var lastCheckpointError: StoreError?
        var isEnding = false
    }

    let store: any TableStore  // entered once a batch
    let book: MemberBook
    private let replay: any CommandReplay  // entered once a batch
    private let log: GroupLog
    private let options: MetadataGroupOptions
    private let reactor: Reactor
    private let state = Mutex(State())

    init(
        store: any TableStore, replay: any CommandReplay, log: GroupLog, book: MemberBook,
        options: MetadataGroupOptions, on reactor: Reactor
    ) {
        self.store = store
        self.book = book
        self.replay = replay
        self.log = log
        self.options = options
        self.reactor = reactor
    }

    var appliedIndex: LogIndex { store.appliedIndex }
    /// As its log has them.
    var members: ConfState { log.confState.0 }

    func apply(_ commands: [CommittedCommand]) async throws(StoreError) {
        guard let last = commands.last else { return }
        let prepared = try replay.prepare(commands)
        guard commands.contains(where: { $0.book != nil }) else {
            try await store.apply(commands.count, through: last.index, prepared.run)
            prepared.applied()
            noteApplied(commands)
            return
        }
        try await store.apply(commands.count, through: last.index) { number, tables in
            if let change = commands[number].book { MemberBook.apply(change, in: tables) }
            prepared.run(number, tables)
        }
        prepared.applied()
        for command in commands { command.book.map(book.learn) }
        noteApplied(commands)
    }

    private func noteApplied(_ commands: [CommittedCommand]) {
        var bytes = 0
        for command in commands { bytes += command.bytes.count }
        // A batch of few bytes takes a block of the log all the same.
        checkpointIfDue(adding: max(bytes, 4096))
    }

    func writeSnapshot(to path: String) async throws(StoreError) -> LogIndex {
        try await store.copy(to: path)
    }

    func installSnapshot(from path: String, index: LogIndex) async throws(StoreError) {
        try await store.replace(with: path, index: index)
        try await resetMachine()
    }

    func interrupt() { store.interrupt() }
    func hurry(_ isHurried: Bool) { store.hurry(isHurried) }

    /// What the state machine keeps beside the tables is made anew from them.
    func resetMachine() async throws(StoreError) {
        let (replay, book) = (replay, book)
        try await store.readStored { tables throws(StoreError) in
            replay.setClock(by: tables)
            try book.learn(from: tables)
            try replay.reset(from: tables)
        }
    }

    // MARK: Checkpoints

    /// Why the last checkpoint failed; nil if it did not.
    var checkpointError: StoreError? { state.withLock { $0.lastCheckpointError } }

    private func checkpointIfDue(adding bytes: Int) {
        state.withLock { state in
            state.bytesSinceCheckpoint += bytes
            let long = store.logBytes
            state.longLog = min(state.longLog, long)
            let isLong = long >= state.longLog + options.tablesLogBytes
            guard isLong || state.bytesSinceCheckpoint >= options.checkpointBytes,
                state.checkpoint == nil, !state.isEnding
            else { return }
            state.bytesSinceCheckpoint = 0
            state.longLog = long
            state.checkpoint = Task(executorPreference: reactor) {
                let failure: StoreError?
                do throws(StoreError) {
                    try await self.checkpoint()
                    failure = nil
                } catch {
                    failure = error
                }
                self.state.withLock { state in
                    state.checkpoint = nil
                    state.lastCheckpointError = failure
                }
            }
        }
    }

    /// Makes the tables durable and drops the part of the log that neither they nor a follower
    /// that is a little behind need.
    func checkpoint() async throws(StoreError) {
        guard let index = try await store.checkpoint() else { return }
        let members = log.confState.0
        let isAlone = members.voters.count + members.learners.count <= 1
        let kept = isAlone ? 0 : options.trailingEntries
        guard index > kept else { return }
        var last = index - kept
        // Whoever is being given a snapshot goes on with the entries behind it; without them it
        // would need the next one at once. But the log does not grow for ever over that.
        if let held = log.held, held < last, index - held <= MetadataGroupLimits.heldEntries {
            last = held
        }
        guard last >= log.firstIndex else { return }
        try await log.compact(through: last)
    }

    /// No more checkpoints but a last one. To be called when nothing is applied any more.
    func end() async throws(StoreError) {
        let running = state.withLock { state in
            state.isEnding = true
            return state.checkpoint
        }
        await running?.value
        _ = try await store.checkpoint()
    }
}
