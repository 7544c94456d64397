import Glibc

/// What `Reactor.status` says of a path.
public struct FileStatus: Hashable, Sendable {
    public var size: Int
    public var isDirectory: Bool
    /// Bytes of disk space in use.
    public var allocated: Int
    /// When the content was changed last, by the clock of the machine: nanoseconds since 1970; 0 where
    /// that is not known.
    public var modifiedAt: Int64

    public init(size: Int, isDirectory: Bool, allocated: Int, modifiedAt: Int64 = 0) {
        self.size = size
        self.isDirectory = isDirectory
        self.allocated = allocated
        self.modifiedAt = modifiedAt
    }
}

/// Space of a file system, in bytes.
public struct FileSystemStatus: Hashable, Sendable {
    public var capacity: Int
    public var available: Int

    public init(capacity: Int, available: Int) {
        self.capacity = capacity
        self.available = available
    }
}

// What has to do with names. Each of these may wait for a disk: with `disk`, one of this reactor, on
// the thread that the disk has for it, without on one that all files of no disk share. Never on the
// reactor's own.
extension Reactor {
    public func rename(
        _ from: String, to target: String, disk: Disk? = nil
    ) async throws(IOError) {
        // The copies outlive the operation, which another thread does.
        let (old, new) = (copy(of: from), copy(of: target))
        defer {
            free(old)
            free(new)
        }
        let result = await perform(.rename(from: old, to: new), onThreadOf: disk)
        guard result >= 0 else { throw IOError(code: -result, operation: "rename", path: from) }
    }

    /// Removes a file or an empty directory.
    public func remove(_ path: String, disk: Disk? = nil) async throws(IOError) {
        let result = await performOnPath(path, disk: disk) { .remove(path: $0) }
        guard result >= 0 else { throw IOError(code: -result, operation: "remove", path: path) }
    }

    /// Makes a directory; that it is there already is no error.
    public func makeDirectory(_ path: String, disk: Disk? = nil) async throws(IOError) {
        let result = await performOnPath(path, disk: disk) { .makeDirectory(path: $0) }
        guard result >= 0 || result == -EEXIST else {
            throw IOError(code: -result, operation: "mkdir", path: path)
        }
    }

    /// Makes creations, renames and removals in the directory durable.
    public func synchronizeDirectory(_ path: String, disk: Disk? = nil) async throws(IOError) {
        let result = await performOnPath(path, disk: disk) { .synchronizeDirectory(path: $0) }
        guard result >= 0 else {
            throw IOError(code: -result, operation: "fsync of directory", path: path)
        }
    }

    /// Names in a directory, without `.` and `..`, sorted.
    public func list(_ path: String, disk: Disk? = nil) async throws(IOError) -> [String] {
        try await onThread(of: disk, "opendir", path) { [simulation] in
            if let simulation { return simulation.kernel.list(path).map { $0.sorted() } }
            guard let directory = opendir(path) else {
                return .failure(IOError(code: errno, operation: "opendir", path: path))
            }
            defer { closedir(directory) }
            var names: [String] = []
            while let entry = readdir(directory) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                    pointer.withMemoryRebound(to: CChar.self, capacity: 256) {
                        String(cString: $0)
                    }
                }
                if name != "." && name != ".." { names.append(name) }
            }
            return .success(names.sorted())
        }
    }

    /// Size and kind, nil if there is nothing at `path`.
    public func status(_ path: String, disk: Disk? = nil) async throws(IOError) -> FileStatus? {
        try await onThread(of: disk, "stat", path) { [simulation] in
            if let simulation { return simulation.kernel.status(path) }
            var result = stat()
            guard stat(path, &result) == 0 else {
                if errno == ENOENT { return .success(nil) }
                return .failure(IOError(code: errno, operation: "stat", path: path))
            }
            return .success(
                FileStatus(
                    size: Int(result.st_size), isDirectory: result.st_mode & S_IFMT == S_IFDIR,
                    allocated: Int(result.st_blocks) * 512,
                    modifiedAt: Int64(result.st_mtim.tv_sec) * 1_000_000_000
                        + Int64(result.st_mtim.tv_nsec)))
        }
    }

    /// Capacity and available space of the file system that holds `path`.
    public func fileSystemStatus(
        _ path: String, disk: Disk? = nil
    ) async throws(IOError) -> FileSystemStatus {
        try await onThread(of: disk, "statvfs", path) { [simulation] in
            if let simulation { return simulation.kernel.space(path) }
            var result = statvfs()
            guard statvfs(path, &result) == 0 else {
                return .failure(IOError(code: errno, operation: "statvfs", path: path))
            }
            return .success(
                FileSystemStatus(
                    capacity: Int(result.f_blocks) * Int(result.f_frsize),
                    available: Int(result.f_bavail) * Int(result.f_frsize)))
        }
    }

    /// Does the operation that `make` makes for `path`, on the thread of `disk`.
    func performOnPath(
        _ path: String, disk: Disk?,
        _ make: (UnsafePointer<CChar>) -> IORequest.Operation
    ) async -> Int32 {
        // The copy outlives the operation, which another thread does.
        let copy = copy(of: path)
        defer { free(copy) }
        return await perform(make(copy), onThreadOf: disk)
    }

    private func perform(
        _ operation: IORequest.Operation, onThreadOf disk: Disk?
    ) async -> Int32 {
        var request = IORequest(operation)
        request.thread = threadNumber(of: disk)
        return await perform(request)
    }

    private func copy(of path: String) -> UnsafeMutablePointer<CChar> {
        guard let copy = strdup(path) else { preconditionFailure("no memory for a path") }
        return copy
    }
}
