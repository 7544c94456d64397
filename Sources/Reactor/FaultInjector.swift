import CLinux
import Glibc
import Synchronization

/// Decides by a seed what goes wrong, and remembers what a power cut would take back.
///
/// No tool outside the process sees into io_uring; so the faults happen in the backend itself, on
/// real files. One injector may serve several reactors of a test. Thread-safe.
///
/// Counted operations are those that change files: writes, syncs, creations, renames, removals,
/// allocations, truncations.
public final class FaultInjector: Sendable {
    /// Chances of faults while running, each 0…1.
    public struct Rates: Sendable {
        /// The operation fails with EIO and does nothing.
        public var error = 0.0
        /// A read or write moves only a part.
        public var short = 0.0
        /// The operation is held back for some turns, so that others overtake it.
        public var delay = 0.0
        /// A sync answers without having synced.
        public var lostSync = 0.0
        public init(error: Double = 0, short: Double = 0, delay: Double = 0, lostSync: Double = 0) {
            self.error = error
            self.short = short
            self.delay = delay
            self.lostSync = lostSync
        }
    }

    struct Undo {
        enum Change {
            /// Bytes that were at `offset` before; shorter than `length` past the old end.
            case write(
                offset: Int, length: Int, before: [UInt8], sizeBefore: Int, isDurable: Bool = false)
            case create
            case makeDirectory
            case rename(from: String, replaced: String?)
            case remove(kept: String)
        }
        var path: String
        var change: Change
    }

    private struct State {
        var random: SplitMix64
        var rates: Rates
        var count = 0
        var crashAt: Int?
        var hasCrashed = false
        var isFull = false
        var isHung = false
        var errors: [Operation: Int32] = [:]
        var hungPath: String?
        var hanging = 0
        var acceptError: Int32?
        var refusedAccepts = 0
        var undo: [Undo] = []
        var paths: [Int32: String] = [:]
        var keptNames = 0

        /// Whether the operation, on a file that is open, is held back because its disk hangs.
        func holdsFile(_ request: IORequest) -> Bool {
            switch request.opcode {
            case .read, .write, .synchronize, .allocate: isBelowHungPath(request)
            default: false
            }
        }

        /// Whether the operation is one on what lies below the path that hangs.
        func isBelowHungPath(_ request: IORequest) -> Bool {
            guard let hungPath, let path = request.path ?? paths[request.descriptor] else {
                return false
            }
            return path == hungPath || path.hasPrefix(hungPath + "/")
        }

        /// The write stays; what was written before it to its sectors is of no account any more.
        mutating func noteDurable(_ request: IORequest) {
            guard let path = paths[request.descriptor] else { return }
            for index in undo.indices.reversed() where undo[index].path == path {
                guard
                    case .write(let offset, let length, let before, let size, _) =
                        undo[index].change,
                    offset == Int(request.offset), length == request.length
                else { continue }
                undo[index].change = .write(
                    offset: offset, length: length, before: before, sizeBefore: size,
                    isDurable: true)
                return
            }
        }
    }

    private let state: Mutex<State>
    /// Use io_uring below the faults where it can be had.
    public let prefersUring: Bool
    /// Whether a power cut also takes folders, with all that is in them, whose own folder was not
    /// synced since they were made.
    public let losesFolders: Bool

    public init(
        seed: UInt64, rates: Rates = Rates(), prefersUring: Bool = true,
        losesFolders: Bool = false
    ) {
        self.losesFolders = losesFolders
        state = Mutex(State(random: SplitMix64(state: seed), rates: rates))
        self.prefersUring = prefersUring
    }

    /// Operations that changed files so far.
    public var operationCount: Int { state.withLock { $0.count } }
    public var hasCrashed: Bool { state.withLock { $0.hasCrashed } }

    /// From the `count`th operation from the start on (0: the next first) everything fails, as if
    /// the machine had lost power just before it.
    public func crash(atOperation count: Int) { state.withLock { $0.crashAt = count } }

    public func set(rates: Rates) { state.withLock { $0.rates = rates } }

    /// While true, space that is asked for is refused with ENOSPC; what is allocated can be
    /// written.
    public func set(isFull: Bool) { state.withLock { $0.isFull = isFull } }

    /// While true, operations that change files begin and do not end, as on a disk that hangs; they
    /// go on when it is false again.
    public func set(isHung: Bool) { state.withLock { $0.isHung = isHung } }

    /// What `set(error:for:)` tells apart.
    public enum Operation: Hashable, Sendable {
        case read, write, synchronize, allocate, punch
        /// All that needs a descriptor of its own: opening a file, syncing a folder.
        case open
    }

    /// While not nil, operations of the kind fail with `error` (errno) and do nothing.
    public func set(error: Int32?, for operation: Operation) {
        state.withLock { $0.errors[operation] = error }
    }

    /// While not nil, operations on that path and on what lies below it begin and do not end, as on
    /// a disk that hangs: on names, where the thread that does them does not come back, and on files
    /// that were opened there.
    public func set(hungPath: String?) { state.withLock { $0.hungPath = hungPath } }

    /// Operations on names that hang now, each with the thread that does it.
    public var hangingNames: Int { state.withLock { $0.hanging } }

    /// While not nil, the error with which no connection is accepted; the connections stay in the
    /// system's queue.
    public func set(acceptError: Int32?) { state.withLock { $0.acceptError = acceptError } }

    /// How often a connection was not accepted for it.
    public var refusedAccepts: Int { state.withLock { $0.refusedAccepts } }

    /// What an accept fails with; nil if it does not.
    func judgeAccept() -> Int32? {
        state.withLock { state in
            if state.acceptError != nil { state.refusedAccepts += 1 }
            return state.acceptError
        }
    }

    /// Whether an operation that was held back is still to be.
    func holds(_ request: IORequest) -> Bool {
        state.withLock { ($0.isHung && request.changesFiles) || $0.holdsFile(request) }
    }

    /// Does not return as long as the operation is on a path that hangs. On the thread that is about
    /// to do it.
    func waitWhileHung(_ request: IORequest) {
        func hangs() -> Bool { state.withLock { $0.isBelowHungPath(request) && !$0.hasCrashed } }
        guard hangs() else { return }
        state.withLock { $0.hanging += 1 }
        while hangs() { usleep(1000) }
        state.withLock { $0.hanging -= 1 }
    }

    // MARK: What the backend asks

    enum Verdict {
        case pass
        case fail(Int32)
        case shorten(Int)
        case delay(turns: Int)
        case skip
    }

    func judge(_ request: IORequest) -> Verdict {
        state.withLock { state in
            if state.hasCrashed { return .fail(-EIO) }
            if request.changesFiles {
                if let crashAt = state.crashAt, state.count >= crashAt {
                    state.hasCrashed = true
                    return .fail(-EIO)
                }
                state.count += 1
            }
            if state.isHung, request.changesFiles { return .delay(turns: 1) }
            if state.holdsFile(request) { return .delay(turns: 1) }
            if let kind = request.faultKind {
                if let error = state.errors[kind] { return .fail(-error) }
                if state.isFull, kind == .allocate { return .fail(-ENOSPC) }
            }
            if state.random.chance(state.rates.error) { return .fail(-EIO) }
            if request.opcode == .synchronize, state.random.chance(state.rates.lostSync) {
                return .skip
            }
            if request.opcode == .read || request.opcode == .write, request.length > 512,
                state.random.chance(state.rates.short)
            {
                let blocks = UInt64(request.length / 512)
                return .shorten(max(512, Int(state.random.next() % blocks) * 512))
            }
            if state.random.chance(state.rates.delay) {
                return .delay(turns: 1 + Int(state.random.next() % 8))
            }
            return .pass
        }
    }

    /// Notes what `request`, about to be done, would leave to be undone. Returns the shadow name
    /// under which a file that is replaced or removed stays reachable.
    func willPerform(_ request: IORequest) {
        switch request.opcode {
        case .write: noteWrite(request)
        case .open:
            guard request.flags & UInt32(O_CREAT) != 0, let path = request.pathArgument,
                access(path, F_OK) != 0
            else { return }
            state.withLock { $0.undo.append(Undo(path: path, change: .create)) }
        case .makeDirectory:
            guard losesFolders, let path = request.pathArgument, access(path, F_OK) != 0 else {
                return
            }
            state.withLock { $0.undo.append(Undo(path: path, change: .makeDirectory)) }
        case .rename:
            guard let from = request.pathArgument,
                let target = UnsafePointer<CChar>(bitPattern: UInt(request.offset))
            else { return }
            let to = String(cString: target)
            let kept = shadow(of: to)
            state.withLock { state in
                // What was written goes along with its file.
                for index in state.undo.indices {
                    guard case .write = state.undo[index].change else { continue }
                    switch state.undo[index].path {
                    case to: state.undo[index].path = kept ?? "\(to) replaced"
                    case from: state.undo[index].path = to
                    default: break
                    }
                }
                for (descriptor, path) in state.paths where path == from {
                    state.paths[descriptor] = to
                }
                state.undo.append(Undo(path: to, change: .rename(from: from, replaced: kept)))
            }
        case .remove:
            guard let path = request.pathArgument, let kept = shadow(of: path) else { return }
            state.withLock { $0.undo.append(Undo(path: path, change: .remove(kept: kept))) }
        default: break
        }
    }

    func didOpen(_ descriptor: Int32, path: String) {
        state.withLock { $0.paths[descriptor] = path }
    }

    /// A sync or a durable write has truly completed: what it covers cannot be lost any more.
    func didSynchronize(_ request: IORequest) {
        state.withLock { state in
            if request.opcode == .write {
                guard !state.random.chance(state.rates.lostSync) else { return }
                state.noteDurable(request)
            } else if request.opcode == .synchronize {
                guard let path = state.paths[request.descriptor] else { return }
                state.undo.removeAll { entry in
                    guard entry.path == path, case .write = entry.change else { return false }
                    return true
                }
            } else if let directory = request.pathArgument {
                state.undo.removeAll { entry in
                    guard DirectoryPath.parent(of: entry.path) == directory else { return false }
                    if case .write = entry.change { return false }
                    return true
                }
            }
        }
    }

    private func noteWrite(_ request: IORequest) {
        guard let path = state.withLock({ $0.paths[request.descriptor] }) else { return }
        // Read directly where it can be: pages left in the cache here make the kernel report EIO
        // from a later fdatasync when a direct write finds that it cannot drop them.
        let mask = 4095
        let isAligned = Int(request.offset) & mask == 0 && request.length & mask == 0
        var reader =
            isAligned
            ? Glibc.open(path, O_RDONLY | O_CLOEXEC | Int32(APUS_O_DIRECT)) : -1
        if reader < 0 { reader = Glibc.open(path, O_RDONLY | O_CLOEXEC) }
        guard reader >= 0 else { return }
        defer { Glibc.close(reader) }
        var status = stat()
        fstat(reader, &status)
        let memory = UnsafeMutableRawBufferPointer.allocate(
            byteCount: request.length, alignment: mask + 1)
        defer { memory.deallocate() }
        let read = pread(reader, memory.baseAddress, request.length, Int(request.offset))
        let before = Array(memory.prefix(max(0, read)))
        state.withLock { state in
            state.undo.append(
                Undo(
                    path: path,
                    change: .write(
                        offset: Int(request.offset), length: request.length, before: before,
                        sizeBefore: Int(status.st_size))))
        }
    }

    /// Keeps what is at `path` under a second name, nil if nothing is.
    private func shadow(of path: String) -> String? {
        let number = state.withLock { state in
            state.keptNames += 1
            return state.keptNames
        }
        let directory = DirectoryPath.parent(of: path)
        let name = "\(directory)/.before-\(number)"
        return link(path, name) == 0 ? name : nil
    }

    // MARK: The power cut

    /// Brings the files into a state that a power cut could have left: each write that no sync
    /// covered stays, is lost, or is torn at 512-byte sectors; of the unsynced creations, renames
    /// and removals in a directory the later ones are undone from a random point on. Call when
    /// the reactors have stopped.
    public func applyCrash() {
        var (undo, generator) = state.withLock { ($0.undo, $0.random) }
        undoNames(&undo, &generator)
        var settled: [String: Set<Int>] = [:]
        for entry in undo.reversed() {
            guard
                case .write(let offset, let length, let before, let sizeBefore, let isDurable) =
                    entry.change
            else { continue }
            var kept = settled[entry.path] ?? []
            defer { settled[entry.path] = kept }
            if isDurable {
                kept.formUnion(offset / 512...(offset + length - 1) / 512)
                continue
            }
            revert(
                entry.path, offset: offset, length: length, before: before,
                sizeBefore: sizeBefore, kept: &kept, &generator)
        }
        state.withLock {
            $0.undo = []
            $0.random = generator
        }
    }

    private func undoNames(_ undo: inout [Undo], _ random: inout SplitMix64) {
        let names = undo.filter { entry in
            if case .write = entry.change { false } else { true }
        }
        var lostFrom: [String: Int] = [:]
        for (directory, entries) in Dictionary(
            grouping: names, by: { DirectoryPath.parent(of: $0.path) }
        )
        .sorted(by: { $0.key < $1.key }) {
            lostFrom[directory] = Int(random.next() % UInt64(entries.count + 1))
        }
        for directory in lostFrom.keys {
            let entries = names.filter { DirectoryPath.parent(of: $0.path) == directory }
            for (index, entry) in entries.enumerated().reversed() {
                let isLost = index >= lostFrom[directory]!
                switch entry.change {
                case .create: if isLost { unlink(entry.path) }
                case .makeDirectory:
                    // Out of the way, under a name that nobody looks for.
                    if isLost {
                        Glibc.rename(entry.path, "\(entry.path).lost-\(random.next())")
                    }
                case .rename(let from, let replaced):
                    if isLost {
                        Glibc.rename(entry.path, from)
                        Self.rename(entry.path, to: from, in: &undo)
                        if let replaced { Self.rename(replaced, to: entry.path, in: &undo) }
                    }
                    if let replaced {
                        if isLost { Glibc.rename(replaced, entry.path) } else { unlink(replaced) }
                    }
                case .remove(let kept):
                    if isLost { Glibc.rename(kept, entry.path) } else { unlink(kept) }
                case .write: break
                }
            }
        }
    }

    /// What was written to a file is found under its new name.
    private static func rename(_ from: String, to: String, in undo: inout [Undo]) {
        for index in undo.indices where undo[index].path == from {
            if case .write = undo[index].change { undo[index].path = to }
        }
    }

    private func revert(
        _ path: String, offset: Int, length: Int, before: [UInt8], sizeBefore: Int,
        kept: inout Set<Int>, _ random: inout SplitMix64
    ) {
        let descriptor = Glibc.open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        defer {
            fsync(descriptor)
            posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
            Glibc.close(descriptor)
        }
        let mode = random.next() % 3  // 0: stays, 1: lost, 2: torn
        var padded = before
        padded.append(contentsOf: repeatElement(0, count: length - before.count))
        let sectors = (offset / 512)...((offset + length - 1) / 512)
        for sector in sectors where !kept.contains(sector) {
            let isLost = mode == 1 || (mode == 2 && random.next() % 2 == 0)
            guard isLost else {
                kept.insert(sector)
                continue
            }
            let start = max(offset, sector * 512)
            let end = min(offset + length, (sector + 1) * 512)
            padded.withUnsafeBytes { bytes in
                _ = pwrite(descriptor, bytes.baseAddress! + (start - offset), end - start, start)
            }
        }
        if mode == 1, sizeBefore < offset + length, kept.allSatisfy({ $0 * 512 < sizeBefore }) {
            ftruncate(descriptor, max(sizeBefore, 0))
        }
    }
}

/// The generator behind a seed (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", OOPSLA 2014).
public struct SplitMix64: RandomNumberGenerator, Sendable {
    public var state: UInt64

    public init(state: UInt64) { self.state = state }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    mutating func chance(_ probability: Double) -> Bool {
        probability > 0 && Double(next() >> 11) * 0x1p-53 < probability
    }
}

extension IORequest {
    var changesFiles: Bool {
        switch opcode {
        case .write, .synchronize, .allocate, .truncate, .remove, .makeDirectory, .rename,
            .synchronizeDirectory:
            true
        case .open: flags & UInt32(O_CREAT | O_TRUNC) != 0
        default: false
        }
    }

    var pathArgument: String? {
        UnsafePointer<CChar>(bitPattern: address).map { String(cString: $0) }
    }

    /// The path that the operation names; nil where it names a descriptor.
    fileprivate var path: String? {
        switch opcode {
        case .open, .remove, .makeDirectory, .rename, .synchronizeDirectory: pathArgument
        case .call:
            UnsafeRawPointer(bitPattern: address).map {
                Unmanaged<BlockingCall>.fromOpaque($0).takeUnretainedValue().path
            }
        default: nil
        }
    }
}

extension IORequest {
    /// nil for what `FaultInjector.set(error:for:)` leaves alone.
    fileprivate var faultKind: FaultInjector.Operation? {
        switch opcode {
        case .read: .read
        case .write: .write
        case .synchronize: .synchronize
        case .open, .synchronizeDirectory: .open
        case .allocate: flags & UInt32(APUS_FALLOC_FL_PUNCH_HOLE) != 0 ? .punch : .allocate
        default: nil
        }
    }
}
