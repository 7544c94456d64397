import Glibc

/// What `Reactor.status` says of a path.
public struct FileStatus: Hashable, Sendable {
    public var size: Int
    public var isDirectory: Bool
    /// Bytes of disk space in use.
    public var allocated: Int
}

/// Space of a file system, in bytes.
public struct FileSystemStatus: Hashable, Sendable {
    public var capacity: Int
    public var available: Int
}

// What has to do with names. Each of these may wait for a disk: with `disk`, one of this reactor, on
// the thread that the disk has for it, without on one that all files of no disk share. Never on the
// reactor's own.
extension Reactor {
    public func rename(
        _ from: String, to target: String, disk: Disk? = nil
    ) async throws(IOError) {
        let old = strdup(from)
        let new = strdup(target)
        defer {
            free(old)
            free(new)
        }
        let result = await perform(
            IORequest(
                opcode: .rename, thread: threadNumber(of: disk), address: UInt(bitPattern: old),
                offset: UInt64(UInt(bitPattern: new))))
        guard result >= 0 else { throw IOError(code: -result, operation: "rename", path: from) }
    }

    /// Removes a file or an empty directory.
    public func remove(_ path: String, disk: Disk? = nil) async throws(IOError) {
        let result = await performOnPath(.remove, path, disk: disk)
        guard result >= 0 else { throw IOError(code: -result, operation: "remove", path: path) }
    }

    /// Makes a directory; that it is there already is no error.
    public func makeDirectory(_ path: String, disk: Disk? = nil) async throws(IOError) {
        let result = await performOnPath(.makeDirectory, path, disk: disk)
        guard result >= 0 || result == -EEXIST else {
            throw IOError(code: -result, operation: "mkdir", path: path)
        }
    }

    /// Makes creations, renames and removals in the directory durable.
    public func synchronizeDirectory(_ path: String, disk: Disk? = nil) async throws(IOError) {
        let result = await performOnPath(.synchronizeDirectory, path, disk: disk)
        guard result >= 0 else {
            throw IOError(code: -result, operation: "fsync of directory", path: path)
        }
    }

    /// Names in a directory, without `.` and `..`, sorted.
    public func list(_ path: String, disk: Disk? = nil) async throws(IOError) -> [String] {
        try await onThread(of: disk, "opendir", path) {
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
        try await onThread(of: disk, "stat", path) {
            var result = stat()
            guard stat(path, &result) == 0 else {
                if errno == ENOENT { return .success(nil) }
                return .failure(IOError(code: errno, operation: "stat", path: path))
            }
            return .success(
                FileStatus(
                    size: Int(result.st_size), isDirectory: result.st_mode & S_IFMT == S_IFDIR,
                    allocated: Int(result.st_blocks) * 512))
        }
    }

    /// Capacity and available space of the file system that holds `path`.
    public func fileSystemStatus(
        _ path: String, disk: Disk? = nil
    ) async throws(IOError) -> FileSystemStatus {
        try await onThread(of: disk, "statvfs", path) {
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

    func performOnPath(
        _ opcode: IORequest.Opcode, _ path: String, disk: Disk?, flags: UInt32 = 0,
        length: Int = 0
    ) async -> Int32 {
        // The copy outlives the operation, which another thread does.
        let copy = strdup(path)
        defer { free(copy) }
        return await perform(
            IORequest(
                opcode: opcode, thread: threadNumber(of: disk), flags: flags,
                address: UInt(bitPattern: copy), length: length))
    }
}
