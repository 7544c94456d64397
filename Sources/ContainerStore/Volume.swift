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
    /// What all I/O on the volume's files goes through.
    let disk: Disk

    struct State {
        /// Why the volume was taken out.
        var failure: String?
        /// Set when a write or the space check finds no room, cleared when there is room again.
        var isFull = false
        /// What could be written when that was last looked at.
        var available = Int.max
        /// Called when the volume becomes full.
        var whenFull: (@Sendable () -> Void)?
        /// Bytes that the store's files take: allocated or written.
        var used = 0
        var problems: [String] = []
        /// Replicas whose files are there but could not be opened. Nothing is made in their place.
        var unusable: Set<ContainerID> = []
        var version: VolumeVersion?
        /// Open and locked as long as the volume is in use.
        var lock: File?
    }
    private let state = Mutex(State())

    init(path: String, reactor: Reactor, options: ContainerStore.Options) {
        self.path = path
        self.reactor = reactor
        self.options = options
        committer = Committer(reactor: reactor, durability: options.durability)
        reclaimer = Reclaimer(
            reactor: reactor, delay: options.reclaimDelay, bytes: options.reclaimBytes)
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

    /// Throws if the volume was taken out.
    func check() throws(StoreError) {
        if let failure { throw failed(failure) }
    }

    private func failed(_ reason: String) -> StoreError {
        StoreError(.io, "volume \(path) was taken out: \(reason)")
    }

    /// Takes the volume out. The first reason stays.
    func fail(_ reason: String) {
        state.withLock { if $0.failure == nil { $0.failure = reason } }
    }

    /// What to tell of a failed operation that changes files. Unless the disk is merely full, the
    /// volume is taken out: after a failed write or sync nobody knows what is on it.
    func failure(of error: IOError) -> StoreError {
        if error.isOverload { return overloaded(error) }
        if error.isFull {
            noteFull()
            return StoreError(.noSpace, "volume \(path) is full: \(error.description)")
        }
        fail(error.description)
        return failed(error.description)
    }

    /// What to tell of an operation that found the disk's queue full.
    func overloaded(_ error: IOError) -> StoreError {
        StoreError(.overloaded, "volume \(path) has too much to do: \(error.description)")
    }

    /// Runs `body` and turns its error into what `failure(of:)` says.
    func changing<R>(
        _ body: () async throws(IOError) -> R
    ) async throws(StoreError) -> R {
        do throws(IOError) { return try await body() } catch { throw failure(of: error) }
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

    /// Notes that nothing more fits, and has the volume's containers closed.
    func noteFull() {
        let handler = state.withLock { state in
            defer { state.isFull = true }
            return state.isFull ? nil : state.whenFull
        }
        handler?()
        reclaimer.look(at: self)
    }

    func addUsed(_ bytes: Int) { state.withLock { $0.used += bytes } }

    /// Capacity, and what may still be written: neither the file system's reserve nor the
    /// volume's limit is passed. 0 for a volume that failed.
    func space() async -> (capacity: Int, used: Int, available: Int) {
        let (used, isFailed) = state.withLock { ($0.used, $0.failure != nil) }
        do throws(IOError) {
            let status = try await reactor.fileSystemStatus(path, disk: disk)
            var capacity = status.capacity
            var available = max(0, status.available - options.reservedBytes)
            if let limit = options.volumeLimitBytes {
                capacity = min(capacity, limit)
                available = min(available, max(0, limit - used))
            }
            return (capacity, used, isFailed ? 0 : available)
        } catch {
            fail(error.description)
            return (0, used, 0)
        }
    }
}

extension IOError {
    /// Linux's numbers; this layer does not import libc.
    private enum Number {
        static let noMemory: Int32 = 12
        static let badAddress: Int32 = 14
        static let noSpace: Int32 = 28
        static let notImplemented: Int32 = 38
        static let notSupported: Int32 = 95
        static let quotaExceeded: Int32 = 122
    }

    /// The disk or quota is full; nothing is broken.
    var isFull: Bool { code == Number.noSpace || code == Number.quotaExceeded }
    /// The kernel could not get at the memory of the bytes, which may be a client's. It says
    /// nothing about the disk.
    var isOfMemory: Bool { code == Number.noMemory || code == Number.badAddress }
    /// The file system does not know the operation.
    var isUnsupported: Bool { code == Number.notSupported || code == Number.notImplemented }
}
