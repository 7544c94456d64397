import Bytes
import ContainerFormat
import Model
import Reactor

extension Volume {
    /// Reads the `VERSION` file, or formats the directory if it is empty.
    ///
    /// Throws `invalidArgument` if it belongs to another datanode or is no volume, and
    /// `versionMismatch` if a newer program wrote it, `overloaded` if the process has too few
    /// descriptors or too little memory. Errors of the disk take the volume out instead.
    func open(datanode: DatanodeID) async throws(StoreError) {
        if let reason = options.refusedVolumes[path] {
            fail(reason)
            return
        }
        var bytes: [UInt8]?
        var names: [String] = []
        do throws(IOError) {
            if try await reactor.status(versionPath, disk: disk) != nil {
                bytes = try await readAll(versionPath, limit: VolumeVersion.largestSize)
            } else {
                try await reactor.makeDurableDirectory(path, disk: disk)
                names = try await reactor.list(path, disk: disk)
            }
        } catch {
            try failOpening(error)
            return
        }
        guard let bytes else {
            try await format(datanode: datanode, names: names)
            return
        }
        let version: VolumeVersion
        do throws(FormatError) {
            version = try VolumeVersion(parsing: bytes)
        } catch {
            let code: StoreError.Code =
                if case .unknownVersion = error { .versionMismatch } else { .corrupt }
            throw StoreError(code, "\(versionPath): \(error.description)")
        }
        guard version.datanode == datanode else {
            throw StoreError(
                .invalidArgument,
                "volume \(path) belongs to datanode \(version.datanode), this is \(datanode)")
        }
        withState { $0.version = version }
        try await takeLock()
        try await loadProfile()
        try await loadLeaving()
    }

    /// Makes sure that no other store works on the volume.
    private func takeLock() async throws(StoreError) {
        guard options.locksVolumes else { return }
        let isTaken: Bool
        do throws(IOError) {
            let file = try await File.open(lockPath, [.write, .create], on: reactor, disk: disk)
            isTaken = try await file.lock(within: ContainerStore.Limits.lockPatience)
            if isTaken { withState { $0.lock = file } }
        } catch {
            try failOpening(error)
            return
        }
        guard isTaken else {
            throw StoreError(.invalidArgument, "volume \(path) is in use by another datanode")
        }
    }

    /// Lets others use the volume.
    func unlock() async {
        let file = withState { state in
            defer { state.lock = nil }
            return state.lock
        }
        do throws(IOError) { try await file?.close() } catch { fail(error.description) }
        disk.close()
    }

    private func format(datanode: DatanodeID, names: [String]) async throws(StoreError) {
        // A crash while formatting leaves the first two; a file system of its own the third; a
        // disk that was measured first the last.
        let expected: Set = [
            "containers", "VERSION.new", "lost+found", DiskProfile.fileName,
            DiskProfile.fileName + ".new",
        ]
        let strange = names.filter { !expected.contains($0) }
        guard strange.isEmpty else {
            throw StoreError(
                .invalidArgument,
                "\(path) has no VERSION file and is not empty (\(strange[0])): it is not a volume "
                    + "of this store, and is not made one")
        }
        do throws(IOError) {
            try await reactor.makeDirectory(containersPath, disk: disk)
            guard try await reactor.list(containersPath, disk: disk).isEmpty else {
                throw IOError(code: 5, operation: "find VERSION of", path: path)
            }
            try await writeVersion(VolumeVersion(datanode: datanode, cluster: nil))
        } catch {
            try failOpening(error)
            return
        }
        try await takeLock()
        try await loadProfile()
    }

    /// Takes the volume out if its disk does not work. What is no fault of the disk's is thrown: a
    /// start that fails is better than one without half of the disks.
    func failOpening(_ error: IOError) throws(StoreError) {
        switch error.kind {
        case .resource, .overload, .badAddress, .suspended, .expired: throw refusal(for: error)
        case .full, .unsupported, .absent, .disk: fail(error.description)
        }
    }

    /// Replaces the `VERSION` file, durably.
    func writeVersion(_ version: VolumeVersion) async throws(IOError) {
        try await reactor.replaceFile(versionPath, with: version.encoded(), disk: disk)
        withState { $0.version = version }
    }

    /// The bytes of a small file. Read directly: pages of it left in the kernel's cache would
    /// get in the way of later direct writes, which shows as EIO from a sync.
    func readAll(_ path: String, limit: Int) async throws(IOError) -> [UInt8] {
        let file = try await File.open(path, [.read, .direct], on: reactor, disk: disk)
        let bytes = try await read(file, 0..<min(limit, try await file.size()))
        try await file.close()
        return bytes
    }

    /// A range of a file as an array; fewer bytes at the end of the file.
    func read(
        _ file: File, _ range: Range<Int>, for context: IOContext = .client
    ) async throws(IOError) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(range.count)
        var position = range.lowerBound
        while position < range.upperBound {
            let wanted = min(1 << 20, range.upperBound - position)
            let buffer = reactor.pool.allocate(wanted)
            let count = try await file.read(
                into: buffer, 0..<DataFile.aligned(wanted), at: position, for: context)
            let useful = min(count, wanted)
            bytes += buffer.bytes[..<useful]
            position += useful
            if useful < wanted { break }
        }
        return bytes
    }
}
