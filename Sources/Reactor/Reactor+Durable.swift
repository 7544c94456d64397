import Bytes

// What is on stable media under its name when a function here returns.

/// Paths as the kernel takes them.
public enum DirectoryPath {
    /// The directory that holds `path`: `/` for what lies there and for itself, `.` for a bare name.
    public static func parent(of path: String) -> String {
        let names = path.split(separator: "/")
        let above = names.dropLast().joined(separator: "/")
        if path.hasPrefix("/") { return "/" + above }
        return above.isEmpty ? "." : above
    }
}

extension Reactor {
    /// Makes a directory with those above it that are missing. All on the way to it are synced,
    /// whoever made them: what is in a directory is only as durable as its own name.
    ///
    /// A directory that this process may not open ends the way: it is somebody else's, and was
    /// there before.
    public func makeDurableDirectory(_ path: String, disk: Disk? = nil) async throws(IOError) {
        var way = [path]
        while let last = way.last, last != "/", last != "." {
            way.append(DirectoryPath.parent(of: last))
        }
        for folder in way.reversed() where try await status(folder, disk: disk) == nil {
            try await makeDirectory(folder, disk: disk)
        }
        for folder in way {
            do throws(IOError) { try await synchronizeDirectory(folder, disk: disk) } catch {
                if error.isNotPermitted && folder != path { return }
                throw error
            }
        }
    }

    /// Puts a small file in place of the one at `path`, if there is one: after a crash it is the old
    /// one or the new one, whole. What a crash leaves is `path.new`, which the next call replaces.
    public func replaceFile(
        _ path: String, with bytes: [UInt8], disk: Disk? = nil, for context: IOContext = .client
    ) async throws(IOError) {
        let temporary = path + ".new"
        let file = try await File.open(
            temporary, [.write, .create, .truncate], on: self, disk: disk)
        try await file.write(Payload(copying: bytes, pool: pool), at: 0, for: context)
        try await file.synchronize(for: context)
        try await file.close()
        try await rename(temporary, to: path, disk: disk)
        try await synchronizeDirectory(DirectoryPath.parent(of: path), disk: disk)
    }
}
