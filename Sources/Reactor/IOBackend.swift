import Glibc

/// One operation for the kernel. Plain values; whatever the pointers refer to must stay in place
/// until the operation has completed.
struct IORequest: Sendable {
    enum Opcode: UInt8, Sendable {
        /// `address`, `length`, `offset`.
        case read, write
        /// `fdatasync`.
        case synchronize
        /// `flags` are `fallocate`'s mode; `offset`, `length`.
        case allocate
        /// `offset` is the new size.
        case truncate
        /// `address` path; `flags` of open(2); `length` the mode. Result: descriptor.
        case open
        /// Of a file.
        case close
        case closeSocket
        /// `address` path.
        case remove, makeDirectory
        /// `address` old path, `offset` address of the new path.
        case rename
        /// Opens, syncs and closes the directory at `address`.
        case synchronizeDirectory
        /// `address` of a `BlockingCall`. Result: 0.
        case call
        /// Result: descriptor of the new connection.
        case accept
        /// `address` sockaddr, `length` its size.
        case connect
        /// `address`, `length`; `flags` 1: until full or end of stream. Result: bytes.
        case receive
        /// `address` of a `msghdr`; all of it is sent. Result: bytes.
        case send
        /// `address` of a `msghdr`, control data included; waits until its one piece of memory is
        /// full or the stream ends. Result: bytes.
        case receiveMessage
        /// Puts the descriptor into the ring's table. Result: slot.
        case register
        /// Takes slot `slot` out of the table.
        case unregister
        /// Some seconds have passed since the last. Result: 1 if the arena is registered.
        case endInterval
    }

    var opcode: Opcode
    /// Memory lies in the part of the arena that the backend may have registered.
    var isFixedBuffer = false
    /// Of a write: it has completed when its bytes are on stable media.
    var isDurable = false
    /// The disk's number on its reactor, times 4, plus the I/O class; 0: of no disk.
    var disk: UInt16 = 0
    /// Of an operation that blocks: the number of the disk whose thread does it; 0: of no disk.
    var thread: UInt16 = 0
    var flags: UInt32 = 0
    var descriptor: Int32 = -1
    /// Slot in the ring's file table, -1 if not registered.
    var slot: Int32 = -1
    var address: UInt = 0
    var length: Int = 0
    var offset: UInt64 = 0
    /// The waiting continuation, or `IOCompletion.ignored`.
    var userData: UInt64 = 0
}

struct IOCompletion: Sendable {
    var userData: UInt64
    /// What the system call returns; -errno on failure.
    var result: Int32

    /// Nobody waits.
    static let ignored: UInt64 = 1
    /// Internal to the backend: the wake-up descriptor.
    static let wakeUp: UInt64 = 2
}

/// The kernel side of a reactor: takes a batch, gives completions back.
///
/// Used by one thread, the one that made it. Operations may complete in any order. After a
/// completion the backend does not touch the operation's memory any more.
protocol IOBackend: ~Copyable {
    /// Starts the operations. Those that complete at once may be appended to `completed` directly.
    mutating func submit(
        _ requests: UnsafeBufferPointer<IORequest>, completed: inout [IOCompletion])
    /// Appends what has completed. Waits at most `nanoseconds` (nil: without limit, 0: not at
    /// all) for the first completion or wake-up.
    mutating func reap(waiting nanoseconds: UInt64?, completed: inout [IOCompletion])
    /// Writing 8 bytes to this descriptor from any thread ends a wait.
    var wakeDescriptor: Int32 { get }
    var name: String { get }
}

/// A failed operation of the operating system.
public struct IOError: Error, Hashable, Sendable, CustomStringConvertible {
    /// errno, positive.
    public var code: Int32
    public var operation: String
    public var path: String

    public init(code: Int32, operation: String, path: String) {
        self.code = code
        self.operation = operation
        self.path = path
    }

    public var description: String {
        "\(operation) \(path): \(String(cString: strerror(code))) (errno \(code))"
    }

    /// The disk had `Disk.Limits.queuedOperations` waiting in the operation's class; nothing was
    /// done, and nothing is broken.
    public var isOverload: Bool { code == ENOBUFS }
    public var isNoSpace: Bool { code == ENOSPC || code == EDQUOT }
    /// The process or the machine lacks descriptors or memory; the disk is all right, and the same
    /// may succeed later.
    public var isShortage: Bool {
        kind == .resource || kind == .overload
    }
    public var isAbsent: Bool { code == ENOENT }
    public var isNotPermitted: Bool { code == EACCES || code == EPERM }
}
