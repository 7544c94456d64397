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
    private let descriptor: Int32
    private let slot: Int32
    private let isClosed = Atomic<Bool>(false)

    private init(
        path: String, reactor: Reactor, disk: Disk?, isDirect: Bool, descriptor: Int32, slot: Int32
    ) {
        self.path = path
        self.reactor = reactor
        self.disk = disk
        self.isDirect = isDirect
        self.descriptor = descriptor
        self.slot = slot
    }

    deinit {
        guard !isClosed.load(ordering: .relaxed) else { return }
        let (descriptor, slot) = (descriptor, slot)
        let thread = reactor.threadNumber(of: disk)
        reactor.post { inbox in Self.appendClose(descriptor, slot, thread, &inbox.requests) }
    }

    private static func appendClose(
        _ descriptor: Int32, _ slot: Int32, _ thread: UInt16, _ requests: inout [IORequest]
    ) {
        let ignored = IOCompletion.ignored
        if slot >= 0 {
            requests.append(
                IORequest(
                    opcode: .unregister, descriptor: descriptor, slot: slot, userData: ignored))
        }
        requests.append(
            IORequest(
                opcode: .close, thread: thread, descriptor: descriptor, userData: ignored))
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
        var result = await reactor.performOnPath(
            .open, path, disk: disk,
            flags: UInt32(bitPattern: wantsDirect ? flags | Int32(APUS_O_DIRECT) : flags),
            length: 0o644)
        if result == -EINVAL, wantsDirect {
            isDirect = false
            // The first try may have made the file before it refused the flag.
            result = await reactor.performOnPath(
                .open, path, disk: disk, flags: UInt32(bitPattern: flags & ~O_EXCL),
                length: 0o644)
        }
        return try await adopt(result, path: path, isDirect: isDirect, on: reactor, disk: disk)
    }

    private static func openUnnamed(
        in directory: String, _ options: OpenOptions, on reactor: Reactor, disk: Disk?
    ) async throws(IOError) -> File {
        let flags = O_RDWR | O_CLOEXEC | Int32(APUS_O_TMPFILE)
        for isDirect in options.contains(.direct) ? [true, false] : [false] {
            let result = await reactor.performOnPath(
                .open, directory, disk: disk,
                flags: UInt32(bitPattern: isDirect ? flags | Int32(APUS_O_DIRECT) : flags),
                length: 0o600)
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
        let slot = await reactor.perform(IORequest(opcode: .register, descriptor: result))
        return File(
            path: path, reactor: reactor, disk: disk, isDirect: isDirect, descriptor: result,
            slot: max(slot, -1))
    }

    /// Reads `range.count` bytes from `offset` into `range` of `buffer`. Fewer only at the end of
    /// the file. Returns the number of bytes read.
    public func read(
        into buffer: AlignedBuffer, _ range: Range<Int>, at offset: Int,
        class ioClass: IOClass = .client
    ) async throws(IOError) -> Int {
        let target = buffer.bytes(in: range)
        var done = 0
        var lastEnd = -1
        while done < range.count {
            var request = request(
                .read, ioClass, offset: offset + done, length: range.count - done)
            request.address = UInt(bitPattern: target.baseAddress!) + UInt(done)
            request.isFixedBuffer = buffer.isRegistered && buffer.pool === reactor.pool
            let result = await reactor.perform(request)
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
        _ payload: Payload, at offset: Int, class ioClass: IOClass = .client,
        isDurable: Bool = false
    ) async throws(IOError) {
        let start = UInt(bitPattern: payload.buffer.base) + UInt(payload.offset)
        var done = 0
        while done < payload.count {
            var request = request(
                .write, ioClass, offset: offset + done, length: payload.count - done)
            request.address = start + UInt(done)
            request.isDurable = isDurable
            request.isFixedBuffer =
                payload.buffer.isRegistered && payload.buffer.pool === reactor.pool
            let result = await reactor.perform(request)
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
    public func synchronize(class ioClass: IOClass = .client) async throws(IOError) {
        try check(await reactor.perform(request(.synchronize, ioClass)), "fdatasync")
    }

    /// Reserves disk space for `range` and extends the file's size to hold it.
    public func allocate(
        _ range: Range<Int>, class ioClass: IOClass = .client
    ) async throws(IOError) {
        try await allocate(range, mode: 0, ioClass, "fallocate")
    }

    /// Gives the space of `range` back; it reads as zeros. The size stays.
    public func punchHole(
        _ range: Range<Int>, class ioClass: IOClass = .client
    ) async throws(IOError) {
        let mode = UInt32(APUS_FALLOC_FL_PUNCH_HOLE | APUS_FALLOC_FL_KEEP_SIZE)
        try await allocate(range, mode: mode, ioClass, "fallocate punch hole")
    }

    /// Makes `range` read as zeros, keeping its space reserved.
    public func zero(
        _ range: Range<Int>, class ioClass: IOClass = .client
    ) async throws(IOError) {
        let mode = UInt32(APUS_FALLOC_FL_ZERO_RANGE)
        try await allocate(range, mode: mode, ioClass, "fallocate zero range")
    }

    private func allocate(
        _ range: Range<Int>, mode: UInt32, _ ioClass: IOClass, _ operation: String
    ) async throws(IOError) {
        guard !range.isEmpty else { return }
        var request = request(
            .allocate, ioClass, offset: range.lowerBound, length: range.count)
        request.slot = -1
        request.flags = mode
        while true {
            let result = await reactor.perform(request)
            if result == -EINTR { continue }
            return try check(result, operation)
        }
    }

    public func truncate(to size: Int) async throws(IOError) {
        try check(await reactor.perform(request(.truncate, .client, offset: size)), "ftruncate")
    }

    /// Takes the exclusive lock on the file, held until it is closed or the process ends. False
    /// if somebody else has it open and locked, in this process or another.
    public func lock() throws(IOError) -> Bool {
        if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { return true }
        if errno == EWOULDBLOCK { return false }
        throw IOError(code: errno, operation: "flock", path: path)
    }

    /// Bytes in the file.
    public func size() async throws(IOError) -> Int {
        try await reactor.onThread(of: disk, "fstat", path) { [descriptor, path] in
            var status = stat()
            guard fstat(descriptor, &status) == 0 else {
                return .failure(IOError(code: errno, operation: "fstat", path: path))
            }
            return .success(Int(status.st_size))
        }
    }

    /// Closes the file. Later operations are errors of the caller.
    public func close() async throws(IOError) {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        if slot >= 0 {
            _ = await reactor.perform(
                IORequest(opcode: .unregister, descriptor: descriptor, slot: slot))
        }
        try check(
            await reactor.perform(
                IORequest(
                    opcode: .close, thread: reactor.threadNumber(of: disk),
                    descriptor: descriptor)), "close")
    }

    private func request(
        _ opcode: IORequest.Opcode, _ ioClass: IOClass, offset: Int = 0, length: Int = 0
    ) -> IORequest {
        var request = IORequest(
            opcode: opcode, descriptor: descriptor, slot: slot, length: length,
            offset: UInt64(offset))
        if let disk {
            request.thread = UInt16(disk.number)
            if disk.isOpen { request.disk = UInt16(disk.number) << 2 | UInt16(ioClass.rawValue) }
        }
        return request
    }

    private func check(_ result: Int32, _ operation: String) throws(IOError) {
        guard result >= 0 else { throw IOError(code: -result, operation: operation, path: path) }
    }
}
