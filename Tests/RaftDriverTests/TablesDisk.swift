import Foundation
import GRDBSQLite
import Reactor
import Synchronization

/// The disk under SQLite's files of one member, whose power can be cut.
///
/// SQLite writes past the reactor, where a `FaultInjector` sees nothing. So its own calls are
/// watched: before each write what was there is kept until a sync of the file. After a cut each
/// write that no sync covered stays, is lost, or is torn at sectors of 512 bytes. Lengths that
/// were cut and names that were made or removed are taken for durable at once.
///
/// Counted operations are writes, syncs, cuts of length and removals. Thread-safe.
final class TablesDisk: Sendable {
    private struct Write {
        var path: String
        var offset: Int
        var before: [UInt8]
        var length: Int
        var sizeBefore: Int
    }

    private struct State {
        var random: SplitMix64
        var undo: [Write] = []
        var count = 0
        var crashAt: Int?
        var crashWhen: @Sendable () -> Bool = { false }
        var isDown = false
        var isFull = false
    }

    static let sector = 512
    let directory: String
    /// The faults of the member's other files: both lose power together.
    let faults: FaultInjector
    private let state: Mutex<State>

    /// Begins to watch what SQLite does below `directory`.
    init(_ directory: String, seed: UInt64, faults: FaultInjector) {
        self.directory = directory + "/"
        self.faults = faults
        state = Mutex(State(random: SplitMix64(state: seed)))
        SQLiteCalls.watch(self)
    }

    var operationCount: Int { state.withLock { $0.count } }
    var isDown: Bool { state.withLock { $0.isDown } || faults.hasCrashed }

    /// Whether there is no room for anything that is written.
    var isFull: Bool {
        get { state.withLock { $0.isFull } }
        set { state.withLock { $0.isFull = newValue } }
    }

    /// From the `count`th operation on (0: the next) everything fails, here and in the reactor.
    func crash(atOperation count: Int) { state.withLock { $0.crashAt = count } }

    /// The first operation that finds `condition` true fails, with everything after it.
    func crash(when condition: @escaping @Sendable () -> Bool) {
        state.withLock { $0.crashWhen = condition }
    }

    /// Everything fails from now on.
    func cut() {
        state.withLock { $0.isDown = true }
        faults.crash(atOperation: 0)
    }

    /// Whether another operation may be done.
    fileprivate func mayGoOn() -> Bool {
        if faults.hasCrashed { return false }
        let condition = state.withLock { $0.crashWhen }
        if condition() { crash(atOperation: 0) }
        let (goesOn, falls) = state.withLock { state -> (Bool, Bool) in
            if state.isDown { return (false, false) }
            if let crashAt = state.crashAt, state.count >= crashAt {
                state.isDown = true
                return (false, true)
            }
            state.count += 1
            return (true, false)
        }
        if falls { faults.crash(atOperation: 0) }
        return goesOn
    }

    fileprivate func willWrite(
        _ path: String, at offset: Int, length: Int, before: [UInt8], sizeBefore: Int
    ) {
        let write = Write(
            path: path, offset: offset, before: before, length: length, sizeBefore: sizeBefore)
        state.withLock { $0.undo.append(write) }
    }

    /// Everything written to the file stays.
    fileprivate func settle(_ path: String) {
        state.withLock { state in state.undo.removeAll { $0.path == path } }
    }

    /// Ends watching.
    func end() { SQLiteCalls.forget(self) }

    /// Ends watching, and brings the files into a state that a power cut could have left. To be
    /// called when SQLite has closed them.
    func applyCut() throws {
        end()
        var state = state.withLock { $0 }
        for path in Set(state.undo.map(\.path)).sorted() {
            try Self.revert(path, state.undo.filter { $0.path == path }, &state.random)
        }
        // Memory that is shared has no place on a disk.
        for name in try FileManager.default.contentsOfDirectory(atPath: directory)
        where name.hasSuffix("-shm") {
            try FileManager.default.removeItem(atPath: directory + name)
        }
    }

    private static func revert(
        _ path: String, _ writes: [Write], _ random: inout SplitMix64
    ) throws {
        guard let file = FileHandle(forUpdatingAtPath: path) else { return }
        defer { try? file.close() }
        var kept: Set<Int> = []
        // Between all stays and all is lost: a medium mostly takes things in their order.
        let lostFrom = Int(random.next() % UInt64(writes.count + 1))
        for (number, write) in writes.enumerated().reversed() {
            let mode = number < lostFrom ? random.next() % 8 : 7 + random.next() % 3
            // Below 7: stays, 7 and 8: lost, 9: torn.
            let sectors = write.offset / sector...(write.offset + write.length - 1) / sector
            for place in sectors where !kept.contains(place) {
                guard mode >= 7, mode != 9 || random.next() % 2 == 0 else {
                    kept.insert(place)
                    continue
                }
                let start = max(write.offset, place * sector)
                let end = min(write.offset + write.length, (place + 1) * sector)
                var bytes = Array(
                    write.before.dropFirst(start - write.offset).prefix(end - start))
                bytes += Array(repeating: 0, count: end - start - bytes.count)
                try file.seek(toOffset: UInt64(start))
                try file.write(contentsOf: Data(bytes))
            }
        }
        guard let before = writes.map(\.sizeBefore).min() else { return }
        let size = Int(try file.seekToEnd())
        let needed = max(before, kept.map { ($0 + 1) * sector }.max() ?? 0)
        if needed < size { try file.truncate(atOffset: UInt64(needed)) }
    }
}

/// SQLite's way to its files, with the watched ones led past their `TablesDisk`. All others go
/// straight through: the tests of a process share it.
private enum SQLiteCalls {
    /// An open file of a disk, with the address of the system's calls for it.
    struct Watched {
        var disk: TablesDisk
        var path: String
        var methods: UInt

        var base: sqlite3_io_methods {
            guard let found = UnsafePointer<sqlite3_io_methods>(bitPattern: methods) else {
                preconditionFailure("an open file has calls")
            }
            return found.pointee
        }
    }

    private struct Known {
        var disks: [TablesDisk] = []
        /// By the address of SQLite's handle.
        var files: [UInt: Watched] = [:]
        /// Address of the system's calls.
        var system: UInt = 0
        /// Addresses of our calls for files by those of the system's: it has several kinds.
        var ours: [UInt: UInt] = [:]
    }

    private static let known = Mutex(Known())

    static func watch(_ disk: TablesDisk) {
        let isFirst = known.withLock { known in
            known.disks.append(disk)
            guard known.system == 0, let system = sqlite3_vfs_find(nil) else { return false }
            known.system = UInt(bitPattern: system)
            return true
        }
        if isFirst { register() }
    }

    static func forget(_ disk: TablesDisk) {
        known.withLock { known in known.disks.removeAll { $0 === disk } }
    }

    private static func disk(of path: String) -> TablesDisk? {
        known.withLock { $0.disks.first { path.hasPrefix($0.directory + "metadata.db") } }
    }

    private static var system: UnsafeMutablePointer<sqlite3_vfs> {
        guard
            let found = UnsafeMutablePointer<sqlite3_vfs>(
                bitPattern: known.withLock { $0.system })
        else { preconditionFailure("SQLite has a way to files") }
        return found
    }

    private static func file(_ handle: UnsafeMutablePointer<sqlite3_file>?) -> Watched {
        guard let found = known.withLock({ $0.files[UInt(bitPattern: handle)] }) else {
            preconditionFailure("a file with our calls is known until it is closed")
        }
        return found
    }

    private static func register() {
        let ours = UnsafeMutablePointer<sqlite3_vfs>.allocate(capacity: 1)
        ours.initialize(to: system.pointee)
        ours.pointee.pNext = nil
        let name = "watched"
        ours.pointee.zName = UnsafePointer(strdup(name))
        ours.pointee.xOpen = { _, path, handle, flags, outFlags in
            let system = SQLiteCalls.system
            let result = system.pointee.xOpen(system, path, handle, flags, outFlags)
            guard result == SQLITE_OK, let path, let handle else { return result }
            let name = String(cString: path)
            if let disk = SQLiteCalls.disk(of: name) { SQLiteCalls.take(handle, disk, name) }
            return result
        }
        ours.pointee.xDelete = { _, path, syncs in
            if let path, let disk = SQLiteCalls.disk(of: String(cString: path)) {
                guard disk.mayGoOn() else { return SQLITE_IOERR }
                disk.settle(String(cString: path))
            }
            return SQLiteCalls.system.pointee.xDelete(SQLiteCalls.system, path, syncs)
        }
        sqlite3_vfs_register(ours, 1)
    }

    /// Leads an open file's calls past its disk.
    private static func take(
        _ handle: UnsafeMutablePointer<sqlite3_file>, _ disk: TablesDisk, _ path: String
    ) {
        guard let methods = handle.pointee.pMethods else { return }
        let base = UInt(bitPattern: methods)
        let ours = known.withLock { known -> UInt in
            known.files[UInt(bitPattern: handle)] = Watched(
                disk: disk, path: path, methods: base)
            if let ours = known.ours[base] { return ours }
            let table = UnsafeMutablePointer<sqlite3_io_methods>.allocate(capacity: 1)
            table.initialize(to: methods.pointee)
            watch(&table.pointee)
            known.ours[base] = UInt(bitPattern: table)
            return UInt(bitPattern: table)
        }
        handle.pointee.pMethods = UnsafePointer(bitPattern: ours)
    }

    private static func watch(_ methods: inout sqlite3_io_methods) {
        methods.xWrite = { handle, bytes, length, offset in
            let file = SQLiteCalls.file(handle)
            guard file.disk.mayGoOn() else { return SQLITE_IOERR }
            if file.disk.isFull { return SQLITE_FULL }
            if length > 0 {
                var size: sqlite3_int64 = 0
                _ = file.base.xFileSize(handle, &size)
                // Zeros behind the end.
                var before = [UInt8](repeating: 0, count: Int(length))
                _ = file.base.xRead(handle, &before, length, offset)
                file.disk.willWrite(
                    file.path, at: Int(offset), length: Int(length), before: before,
                    sizeBefore: Int(size))
            }
            return file.base.xWrite(handle, bytes, length, offset)
        }
        // What the kernel has is as good as on a medium here: a sync is one for the books.
        methods.xSync = { handle, _ in
            let file = SQLiteCalls.file(handle)
            guard file.disk.mayGoOn() else { return SQLITE_IOERR }
            file.disk.settle(file.path)
            return SQLITE_OK
        }
        methods.xTruncate = { handle, size in
            let file = SQLiteCalls.file(handle)
            return file.disk.mayGoOn() ? file.base.xTruncate(handle, size) : SQLITE_IOERR
        }
        methods.xClose = { handle in
            let file = SQLiteCalls.file(handle)
            SQLiteCalls.known.withLock { $0.files[UInt(bitPattern: handle)] = nil }
            return file.base.xClose(handle)
        }
    }
}
