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
        func holdsFile(_ operation: IORequest.Operation) -> Bool {
            switch operation {
            case .read, .write, .synchronize, .allocate: isBelowHungPath(operation)
            default: false
            }
        }

        /// Whether the operation is one on what lies below the path that hangs.
        func isBelowHungPath(_ operation: IORequest.Operation) -> Bool {
            guard let hungPath,
                let path = operation.path ?? operation.descriptor.flatMap({ paths[$0] })
            else { return false }
            return path == hungPath || path.hasPrefix(hungPath + "/")
        }

        /// The write stays; what was written before it to its sectors is of no account any more.
        mutating func noteDurable(_ transfer: IORequest.Transfer) {
            guard let path = paths[transfer.file.descriptor] else { return }
            for index in undo.indices.reversed() where undo[index].path == path {
                guard
                    case .write(let offset, let length, let before, let size, _) =
                        undo[index].change,
                    offset == Int(transfer.offset), length == transfer.length
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
    func holds(_ operation: IORequest.Operation) -> Bool {
        state.withLock { ($0.isHung && operation.changesFiles) || $0.holdsFile(operation) }
    }

    /// Does not return as long as the operation is on a path that hangs. On the thread that is about
    /// to do it.
    func waitWhileHung(_ operation: IORequest.Operation) {
        func hangs() -> Bool {
            state.withLock { $0.isBelowHungPath(operation) && !$0.hasCrashed }
        }
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

    func judge(_ operation: IORequest.Operation) -> Verdict {
        state.withLock { state in
            if state.hasCrashed { return .fail(-EIO) }
            if operation.changesFiles {
                if let crashAt = state.crashAt, state.count >= crashAt {
                    state.hasCrashed = true
                    return .fail(-EIO)
                }
                state.count += 1
            }
            if state.isHung, operation.changesFiles { return .delay(turns: 1) }
            if state.holdsFile(operation) { return .delay(turns: 1) }
            if let kind = operation.faultKind {
                if let error = state.errors[kind] { return .fail(-error) }
                if state.isFull, kind == .allocate { return .fail(-ENOSPC) }
            }
            if state.random.chance(state.rates.error) { return .fail(-EIO) }
            if case .synchronize = operation, state.random.chance(state.rates.lostSync) {
                return .skip
            }
            let length = operation.transferred
            if length > 512, state.random.chance(state.rates.short) {
                let blocks = UInt64(length / 512)
                return .shorten(max(512, Int(state.random.next() % blocks) * 512))
            }
            if state.random.chance(state.rates.delay) {
                return .delay(turns: 1 + Int(state.random.next() % 8))
            }
            return .pass
        }
    }

    /// Notes what `operation`, about to be done, would leave to be undone. A file that is replaced
    /// or removed stays reachable under a shadow name.
    func willPerform(_ operation: IORequest.Operation) {
        switch operation {
        case .write(let transfer, _): noteWrite(transfer)
        case .open(let name, let flags, _):
            guard flags & O_CREAT != 0, access(name, F_OK) != 0 else { return }
            let path = String(cString: name)
            state.withLock { $0.undo.append(Undo(path: path, change: .create)) }
        case .makeDirectory(let name):
            guard losesFolders, access(name, F_OK) != 0 else { return }
            let path = String(cString: name)
            state.withLock { $0.undo.append(Undo(path: path, change: .makeDirectory)) }
        case .rename(let source, let target):
            noteRename(String(cString: source), String(cString: target))
        case .remove(let name):
            let path = String(cString: name)
            guard let kept = shadow(of: path) else { return }
            state.withLock { $0.undo.append(Undo(path: path, change: .remove(kept: kept))) }
        default: break
        }
    }

    private func noteRename(_ from: String, _ to: String) {
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
    }

    func didOpen(_ descriptor: Int32, path: String) {
        state.withLock { $0.paths[descriptor] = path }
    }

    /// A sync or a durable write has truly completed: what it covers cannot be lost any more.
    func didSynchronize(_ operation: IORequest.Operation) {
        state.withLock { state in
            if case .write(let transfer, _) = operation {
                guard !state.random.chance(state.rates.lostSync) else { return }
                state.noteDurable(transfer)
            } else if case .synchronize(let file) = operation {
                guard let path = state.paths[file.descriptor] else { return }
                state.undo.removeAll { entry in
                    guard entry.path == path, case .write = entry.change else { return false }
                    return true
                }
            } else if let directory = operation.path {
                state.undo.removeAll { entry in
                    guard DirectoryPath.parent(of: entry.path) == directory else { return false }
                    if case .write = entry.change { return false }
                    return true
                }
            }
        }
    }

    private func noteWrite(_ transfer: IORequest.Transfer) {
        guard let path = state.withLock({ $0.paths[transfer.file.descriptor] }) else { return }
        // Read directly where it can be: pages left in the cache here make the kernel report EIO
        // from a later fdatasync when a direct write finds that it cannot drop them.
        let mask = 4095
        let isAligned = Int(transfer.offset) & mask == 0 && transfer.length & mask == 0
        var reader =
            isAligned
            ? Glibc.open(path, O_RDONLY | O_CLOEXEC | Int32(APUS_O_DIRECT)) : -1
        if reader < 0 { reader = Glibc.open(path, O_RDONLY | O_CLOEXEC) }
        guard reader >= 0 else { return }
        defer { Glibc.close(reader) }
        var status = stat()
        fstat(reader, &status)
        let memory = UnsafeMutableRawBufferPointer.allocate(
            byteCount: transfer.length, alignment: mask + 1)
        defer { memory.deallocate() }
        let read = pread(reader, memory.baseAddress, transfer.length, Int(transfer.offset))
        let before = Array(memory.prefix(max(0, read)))
        state.withLock { state in
            state.undo.append(
                Undo(
                    path: path,
                    change: .write(
                        offset: Int(transfer.offset), length: transfer.length, before: before,
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

extension IORequest.Operation {
    var changesFiles: Bool {
        switch self {
        case .write, .synchronize, .allocate, .truncate, .remove, .makeDirectory, .rename,
            .synchronizeDirectory:
            true
        case .open(_, let flags, _): flags & (O_CREAT | O_TRUNC) != 0
        default: false
        }
    }

    /// The path that the operation names; nil where it names a descriptor.
    fileprivate var path: String? {
        switch self {
        case .open(let path, _, _), .remove(let path), .makeDirectory(let path),
            .rename(let path, _), .synchronizeDirectory(let path):
            String(cString: path)
        case .call(let call): call.takeUnretainedValue().path
        default: nil
        }
    }

    /// The open file that the operation is on.
    fileprivate var descriptor: Int32? {
        switch self {
        case .read(let transfer), .write(let transfer, _): transfer.file.descriptor
        case .synchronize(let file), .allocate(let file, _, _, _), .truncate(let file, _):
            file.descriptor
        case .close(let descriptor): descriptor
        default: nil
        }
    }

    /// nil for what `FaultInjector.set(error:for:)` leaves alone.
    fileprivate var faultKind: FaultInjector.Operation? {
        switch self {
        case .read: .read
        case .write: .write
        case .synchronize: .synchronize
        case .open, .synchronizeDirectory: .open
        case .allocate(_, let mode, _, _):
            mode & UInt32(APUS_FALLOC_FL_PUNCH_HOLE) != 0 ? .punch : .allocate
        default: nil
        }
    }
}
