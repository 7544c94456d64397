import Bytes
import CLinux
import Glibc
import Synchronization

/// An open file of one reactor. Closed by `close()`, or when the last reference goes.
///
/// All operations may be awaited from any executor. Offsets and lengths are bytes; with `.direct`
/// those of reads and writes must be multiples of 4096.
public final class File: Sendable {
    public struct OpenOptions: OptionSet, Sendable {
        public let rawValue: Int
        public init(rawValue: Int) { self.rawValue = rawValue }
        public static let read = Self(rawValue: 1)
        public static let write = Self(rawValue: 2)
        public static let create = Self(rawValue: 4)
        /// With `.create`: fails if the file is there.
        public static let exclusive = Self(rawValue: 8)
        public static let truncate = Self(rawValue: 16)
        /// `O_DIRECT`; silently buffered where the file system refuses it.
        public static let direct = Self(rawValue: 32)
        /// The path is a directory: a new file in it without a name, gone when it is closed or the
        /// process ends (`O_TMPFILE`, or a file whose name is removed at once).
        public static let unnamed = Self(rawValue: 64)
    }

    public let path: String
    public let reactor: Reactor
    /// Whether reads and writes bypass the page cache.
    public let isDirect: Bool
    /// What its operations go through, if anything.
    public let disk: Disk?
    private let handle: IOHandle
    private let isClosed = Atomic<Bool>(false)

    private init(
        path: String, reactor: Reactor, disk: Disk?, isDirect: Bool, handle: IOHandle
    ) {
        self.path = path
        self.reactor = reactor
        self.disk = disk
        self.isDirect = isDirect
        self.handle = handle
    }

    deinit {
        guard !isClosed.load(ordering: .relaxed) else { return }
        let (handle, thread) = (handle, reactor.threadNumber(of: disk))
        reactor.post { inbox in Self.appendClose(handle, thread, &inbox.requests) }
    }

    private static func appendClose(
        _ handle: IOHandle, _ thread: UInt16, _ requests: inout [IORequest]
    ) {
        if handle.slot >= 0 { requests.append(.unheard(.unregister(slot: handle.slot))) }
        var close = IORequest.unheard(.close(descriptor: handle.descriptor))
        close.thread = thread
        requests.append(close)
    }

    /// Opens `path`. Created files get mode 0644. Reads, writes, syncs and changes of its space
    /// go through `disk`, if given: one of the same reactor.
    public static func open(
        _ path: String, _ options: OpenOptions, on reactor: Reactor, disk: Disk? = nil
    ) async throws(IOError) -> File {
        precondition(disk == nil || disk!.reactor === reactor, "a disk serves its own reactor")
        if options.contains(.unnamed) {
            return try await openUnnamed(in: path, options, on: reactor, disk: disk)
        }
        var flags = O_CLOEXEC
        flags |=
            options.contains(.write) ? (options.contains(.read) ? O_RDWR : O_WRONLY) : O_RDONLY
        if options.contains(.create) { flags |= O_CREAT }
        if options.contains(.exclusive) { flags |= O_EXCL }
        if options.contains(.truncate) { flags |= O_TRUNC }
        let wantsDirect = options.contains(.direct)
        var isDirect = wantsDirect
        var result = await reactor.open(
            path, wantsDirect ? flags | Int32(APUS_O_DIRECT) : flags, mode: 0o644, disk: disk)
        if result == -EINVAL, wantsDirect {
            isDirect = false
            // The first try may have made the file before it refused the flag.
            result = await reactor.open(path, flags & ~O_EXCL, mode: 0o644, disk: disk)
        }
        return try await adopt(result, path: path, isDirect: isDirect, on: reactor, disk: disk)
    }

    private static func openUnnamed(
        in directory: String, _ options: OpenOptions, on reactor: Reactor, disk: Disk?
    ) async throws(IOError) -> File {
        let flags = O_RDWR | O_CLOEXEC | Int32(APUS_O_TMPFILE)
        for isDirect in options.contains(.direct) ? [true, false] : [false] {
            let result = await reactor.open(
                directory, isDirect ? flags | Int32(APUS_O_DIRECT) : flags, mode: 0o600, disk: disk)
            if result >= 0 {
                return try await adopt(
                    result, path: directory, isDirect: isDirect, on: reactor, disk: disk)
            }
        }
        // A file system without such files.
        let path = "\(directory)/.unnamed-\(getpid())"
        let named = options.subtracting(.unnamed).union([.read, .write, .create, .exclusive])
        let file = try await open(path, named, on: reactor, disk: disk)
        try await reactor.remove(path, disk: disk)
        return file
    }

    private static func adopt(
        _ result: Int32, path: String, isDirect: Bool, on reactor: Reactor, disk: Disk?
    ) async throws(IOError) -> File {
        guard result >= 0 else { throw IOError(code: -result, operation: "open", path: path) }
        let slot = await reactor.perform(IORequest(.register(descriptor: result)))
        return File(
            path: path, reactor: reactor, disk: disk, isDirect: isDirect,
            handle: IOHandle(descriptor: result, slot: max(slot, -1)))
    }

    /// Reads `range.count` bytes from `offset` into `range` of `buffer`. Fewer only at the end of
    /// the file. Returns the number of bytes read.
    public func read(
        into buffer: AlignedBuffer, _ range: Range<Int>, at offset: Int,
        for context: IOContext = .client
    ) async throws(IOError) -> Int {
        let target = buffer.bytes(in: range)
        var done = 0
        var lastEnd = -1
        while done < range.count {
            let transfer = IORequest.Transfer(
                file: handle, memory: target.baseAddress! + done, length: range.count - done,
                offset: UInt64(offset + done),
                isFixedBuffer: buffer.isRegistered && buffer.pool === reactor.pool)
            let result = await reactor.perform(request(.read(transfer), context))
            if result == -EINTR || result == -EAGAIN { continue }
            try check(result, "read")
            if result == 0 { break }
            done += Int(result)
            if isDirect && done % AlignedBuffer.alignment != 0 {
                // The end of the file, or a short read: go on from the last aligned place, and
                // look where the end is when the second read stops there too.
                if done == lastEnd, try await size() <= offset + done { break }
                lastEnd = done
                done &= ~(AlignedBuffer.alignment - 1)
            }
        }
        withExtendedLifetime(buffer) {}
        return max(done, lastEnd)
    }

    /// Writes all of `payload` at `offset`.
    /// - Parameter isDurable: the bytes, and what it takes to find them, are on stable media when it
    ///   returns: a write and a `synchronize` of it alone in one operation, without the kernel's
    ///   worker threads that a sync takes.
    public func write(
        _ payload: Payload, at offset: Int, for context: IOContext = .client,
        isDurable: Bool = false
    ) async throws(IOError) {
        let start = payload.buffer.base + payload.offset
        var done = 0
        while done < payload.count {
            let transfer = IORequest.Transfer(
                file: handle, memory: start + done, length: payload.count - done,
                offset: UInt64(offset + done),
                isFixedBuffer: payload.buffer.isRegistered && payload.buffer.pool === reactor.pool)
            let result = await reactor.perform(
                request(.write(transfer, isDurable: isDurable), context))
            if result == -EINTR || result == -EAGAIN { continue }
            try check(result, "write")
            guard result > 0 else { throw IOError(code: EIO, operation: "write", path: path) }
            done += Int(result)
            if isDirect && done % AlignedBuffer.alignment != 0 && done < payload.count {
                // Go on from the last aligned place: direct writes know no other.
                done &= ~(AlignedBuffer.alignment - 1)
            }
        }
        withExtendedLifetime(payload.buffer) {}
    }

    /// `fdatasync`: all completed writes are on stable media when it returns.
    public func synchronize(for context: IOContext = .client) async throws(IOError) {
        try check(await reactor.perform(request(.synchronize(handle), context)), "fdatasync")
    }

    /// Reserves disk space for `range` and extends the file's size to hold it.
    public func allocate(
        _ range: Range<Int>, for context: IOContext = .client
    ) async throws(IOError) {
        try await allocate(range, mode: 0, context, "fallocate")
    }

    /// Gives the space of `range` back; it reads as zeros. The size stays.
    public func punchHole(
        _ range: Range<Int>, for context: IOContext = .client
    ) async throws(IOError) {
        let mode = UInt32(APUS_FALLOC_FL_PUNCH_HOLE | APUS_FALLOC_FL_KEEP_SIZE)
        try await allocate(range, mode: mode, context, "fallocate punch hole")
    }

    /// Makes `range` read as zeros, keeping its space reserved.
    public func zero(
        _ range: Range<Int>, for context: IOContext = .client
    ) async throws(IOError) {
        let mode = UInt32(APUS_FALLOC_FL_ZERO_RANGE)
        try await allocate(range, mode: mode, context, "fallocate zero range")
    }

    private func allocate(
        _ range: Range<Int>, mode: UInt32, _ context: IOContext, _ operation: String
    ) async throws(IOError) {
        guard !range.isEmpty else { return }
        let request = request(
            .allocate(
                handle, mode: mode, offset: UInt64(range.lowerBound), length: UInt64(range.count)),
            context)
        while true {
            let result = await reactor.perform(request)
            if result == -EINTR { continue }
            return try check(result, operation)
        }
    }

    public func truncate(to size: Int) async throws(IOError) {
        let request = request(.truncate(handle, size: UInt64(size)), .client)
        try check(await reactor.perform(request), "ftruncate")
    }

    /// Takes the exclusive lock on the file, held until it is closed or the process ends. False
    /// if somebody else has it open and locked, in this process or another.
    public func lock() throws(IOError) -> Bool {
        // Nobody else has files of a simulated machine.
        if reactor.simulation != nil { return true }
        if flock(handle.descriptor, LOCK_EX | LOCK_NB) == 0 { return true }
        if errno == EWOULDBLOCK { return false }
        throw IOError(code: errno, operation: "flock", path: path)
    }

    /// As `lock`, tried for `patience`: a process that was just killed holds its locks until the
    /// kernel has ended its I/O, and a program that is being started inherits locks until it runs.
    public func lock(within patience: Duration) async throws(IOError) -> Bool {
        let deadline = reactor.now().advanced(by: patience)
        while try !lock() {
            guard reactor.now() < deadline else { return false }
            do throws(CancellationError) {
                try await reactor.sleep(for: .milliseconds(20))
            } catch { return false }
        }
        return true
    }

    /// Bytes in the file.
    public func size() async throws(IOError) -> Int {
        try await reactor.onThread(of: disk, "fstat", path) { [handle, path, reactor] in
            if let simulation = reactor.simulation {
                return simulation.kernel.size(handle.descriptor, path: path)
            }
            var status = stat()
            guard fstat(handle.descriptor, &status) == 0 else {
                return .failure(IOError(code: errno, operation: "fstat", path: path))
            }
            return .success(Int(status.st_size))
        }
    }

    /// Closes the file. Later operations are errors of the caller.
    public func close() async throws(IOError) {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        if handle.slot >= 0 {
            _ = await reactor.perform(IORequest(.unregister(slot: handle.slot)))
        }
        var close = IORequest(.close(descriptor: handle.descriptor))
        close.thread = reactor.threadNumber(of: disk)
        try check(await reactor.perform(close), "close")
    }

    @inline(__always)
    private func request(
        _ operation: IORequest.Operation, _ context: IOContext
    ) -> IORequest {
        var request = IORequest(operation)
        if let disk {
            request.thread = UInt16(disk.number)
            if disk.isOpen {
                request.disk = UInt16(disk.number)
                request.ioClass = context.ioClass
                request.deadline = context.deadline?.nanoseconds ?? 0
            }
        }
        return request
    }

    private func check(_ result: Int32, _ operation: String) throws(IOError) {
        guard result >= 0 else { throw IOError(code: -result, operation: operation, path: path) }
    }
}

extension Reactor {
    /// The descriptor of the file opened, or -errno.
    fileprivate func open(
        _ path: String, _ flags: Int32, mode: UInt32, disk: Disk?
    ) async -> Int32 {
        await performOnPath(path, disk: disk) { .open(path: $0, flags: flags, mode: mode) }
    }
}
