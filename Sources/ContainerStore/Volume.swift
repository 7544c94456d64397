import ContainerFormat
import Model
import Reactor
import Synchronization

/// One disk of a store: a directory with a `VERSION` file and a folder of containers.
///
/// Belongs to one reactor, on which its files are opened. Its state lies behind a lock.
final class Volume: Sendable {
    let path: String
    let reactor: Reactor
    let options: ContainerStore.Options
    let committer: Committer
    let reclaimer: Reclaimer
    let closer: Closer
    /// What all I/O on the volume's files goes through.
    let disk: Disk

    struct State {
        /// Why the volume was taken out.
        var failure: String?
        /// Set while operations are under way and none ends: why the volume is left alone.
        var suspension: String?
        /// What `watch` saw last: operations completed, since when no more, and when it looked.
        var seenCompleted: UInt64 = 0
        var seenAt: MonotonicTime?
        var lookedAt: MonotonicTime?
        var latencies = RecentLatencies()
        /// Set when a write or the space check finds no room, cleared when there is room again.
        var isFull = false
        /// What could be written when that was last looked at.
        var available = Int.max
        /// Of the file system, as it was seen last.
        var capacity = 0
        /// Called when the volume becomes full.
        var whenFull: (@Sendable () -> Void)?
        /// Tells whether a replica of that container is being rebuilt.
        var isRebuilding: (@Sendable (ContainerID) -> Bool)?
        /// Bytes that the store's files take: allocated or written.
        var used = 0
        var problems: [String] = []
        /// Below `damaged`.
        var kept: [KeptFile] = []
        /// What is kept is being removed, for there is too little room.
        var isMakingRoom = false
        var heals = HealCounts()
        /// Replicas whose files are there but could not be opened. Nothing is made in their place.
        var unusable: Set<ContainerID> = []
        /// Nothing new is put on it, and what it has is to be elsewhere.
        var isLeaving = false
        var version: VolumeVersion?
        /// Open and locked as long as the volume is in use.
        var lock: File?
    }
    private let state = Mutex(State())
    /// Held while it is written down whether the volume leaves.
    let leavingTurn = Turn()

    init(path: String, reactor: Reactor, options: ContainerStore.Options) {
        self.path = path
        self.reactor = reactor
        self.options = options
        committer = Committer(
            reactor: reactor, durability: options.durability, proofInterval: options.proofInterval)
        reclaimer = Reclaimer(
            reactor: reactor, delay: options.reclaimDelay, bytes: options.reclaimBytes)
        closer = Closer(reactor: reactor)
        disk = Disk(name: path, on: reactor)
    }

    var containersPath: String { path + "/containers" }
    var versionPath: String { path + "/VERSION" }
    var lockPath: String { path + "/in-use.lock" }

    func dataPath(_ id: ContainerID) -> String {
        "\(containersPath)/container-\(id.rawValue).data"
    }
    /// Where the journal goes when its container is deleted.
    func deletedPath(_ id: ContainerID) -> String { journalPath(id) + ".deleted" }
    func journalPath(_ id: ContainerID) -> String {
        "\(containersPath)/container-\(id.rawValue).journal"
    }

    func withState<R: Sendable>(_ body: (inout State) -> R) -> R {
        state.withLock { body(&$0) }
    }

    // MARK: Failure

    var failure: String? { state.withLock { $0.failure } }

    /// Why nothing can be done on the volume now: it was taken out, or its disk does not answer.
    var outage: String? { state.withLock { $0.failure ?? $0.suspension } }

    /// Throws if the volume was taken out or its disk does not answer.
    func check() throws(StoreError) {
        if let outage { throw failed(outage) }
    }

    private func failed(_ reason: String) -> StoreError {
        StoreError(.io, "volume \(path) was taken out: \(reason)")
    }

    /// Takes the volume out. The first reason stays.
    func fail(_ reason: String) {
        state.withLock { if $0.failure == nil { $0.failure = reason } }
    }

    /// What to tell of a failed operation. Changes nothing; see `note`.
    func refusal(for error: IOError) -> StoreError {
        switch error.kind {
        case .full: StoreError(.noSpace, "volume \(path) is full: \(error.description)")
        case .overload:
            StoreError(.overloaded, "volume \(path) has too much to do: \(error.description)")
        case .resource, .badAddress:
            StoreError(
                .overloaded, "too little memory or too many open files: \(error.description)")
        case .suspended: StoreError(.io, "volume \(path) does not answer: \(error.description)")
        case .expired:
            StoreError(.deadlineExceeded, "volume \(path) is busy: \(error.description)")
        case .unsupported, .absent, .disk: failed(error.description)
        }
    }

    /// Takes notice of a failed operation that changes files. If the disk is broken the volume is
    /// taken out: after a failed write or sync nobody knows what is on it. If it is merely full its
    /// containers are closed. What passes by itself changes nothing.
    func note(_ error: IOError) {
        switch error.kind {
        case .full: noteFull()
        case .overload, .resource, .badAddress, .suspended, .expired: break
        case .absent: fail("\(error.description); is its disk still mounted?")
        case .unsupported, .disk: fail(error.description)
        }
    }

    /// Tells people of something that keeps the volume from nothing that it is for. The last of each
    /// subject, which is a path.
    func noteProblem(_ subject: String, _ text: String) {
        let beginning = subject + ": "
        state.withLock { state in
            state.problems.removeAll { $0.hasPrefix(beginning) }
            state.problems.append(beginning + text)
        }
    }

    /// Takes the volume out if it is not at its path any more: its disk was unmounted, or its files
    /// were removed. Files that are open go on working, so nothing else tells for as long as none is
    /// opened; and what is asked of the path is about, and goes to, the file system below.
    func lookWhetherThere() async {
        do throws(IOError) {
            guard try await reactor.status(versionPath, disk: disk) == nil else { return }
            fail("its file VERSION is not there any more; is its disk still mounted?")
        } catch { note(error) }
    }

    /// Runs `body`, which changes files; notes its error, and throws what is to be told of it.
    func changing<R>(
        _ body: () async throws(IOError) -> R
    ) async throws(StoreError) -> R {
        do throws(IOError) { return try await body() } catch {
            note(error)
            throw refusal(for: error)
        }
    }

    // MARK: Space

    /// What a new container takes at once. With less the volume is full.
    var leastRoom: Int { options.extentBytes + options.journalSegmentBytes }

    /// Notes whether there is room, by what may be written. Between full and not full lies some
    /// space, so that it does not change with each deletion.
    func noteRoom(available: Int) {
        state.withLock { $0.available = available }
        if available < leastRoom {
            noteFull()
        } else if available >= 2 * leastRoom {
            state.withLock { $0.isFull = false }
        }
        reclaimer.look(at: self)
    }

    /// Notes that nothing more fits, and has the volume's containers closed; unless something gives way
    /// that is kept for people.
    func noteFull() {
        guard mayMakeRoom else { return becomeFull() }
        let mustBegin = state.withLock { state in
            defer { state.isMakingRoom = true }
            return !state.isMakingRoom
        }
        guard mustBegin else { return }
        Task(executorPreference: reactor) { [self] in
            let hasMade = await makeRoom()
            state.withLock { $0.isMakingRoom = false }
            if hasMade { noteRoom(available: await space().available) } else { becomeFull() }
        }
    }

    private func becomeFull() {
        let handler = state.withLock { state in
            defer { state.isFull = true }
            return state.isFull ? nil : state.whenFull
        }
        handler?()
        reclaimer.look(at: self)
    }

    /// As `space`. Where there is too little for a container what is kept for people gives way first.
    func room() async -> (capacity: Int, used: Int, available: Int) {
        let found = await space()
        guard outage == nil, found.available < leastRoom || state.withLock({ $0.isFull }),
            await makeRoom()
        else { return found }
        return await space()
    }

    private var seenCapacity: Int { state.withLock { $0.capacity } }

    func addUsed(_ bytes: Int) { state.withLock { $0.used += bytes } }

    /// Capacity, and what may still be written: neither the file system's reserve nor the
    /// volume's limit is passed. Of one that is out, the capacity that was seen last, and nothing that
    /// may be written.
    func space() async -> (capacity: Int, used: Int, available: Int) {
        let (used, isFailed, isSuspended) = state.withLock {
            ($0.used, $0.failure != nil, $0.suspension != nil)
        }
        // Asking a disk that does not answer would wait for it as well; where one is not mounted any
        // more, another would answer.
        guard !isSuspended, !isFailed else { return (seenCapacity, used, 0) }
        do throws(IOError) {
            let status = try await reactor.fileSystemStatus(path, disk: disk)
            var capacity = status.capacity
            state.withLock { $0.capacity = capacity }
            var available = max(0, status.available - options.reservedBytes)
            if let limit = options.volumeLimitBytes {
                capacity = min(capacity, limit)
                available = min(available, max(0, limit - used))
            }
            return (capacity, used, available)
        } catch {
            note(error)
            return (0, used, 0)
        }
    }
}
