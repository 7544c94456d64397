import Glibc

/// One operation for the kernel, and who waits for it. A plain value, copied on the way to the
/// ring some hundred thousand times a second: nothing in it is counted or allocated.
struct IORequest: Sendable {
    var operation: Operation
    /// The number of the disk on its reactor whose queue it goes through; 0: through none.
    var disk: UInt16 = 0
    /// Of an operation that blocks: the number of the disk whose thread does it; 0: of no disk.
    var thread: UInt16 = 0
    /// Whose share of the disk it takes.
    var ioClass = IOClass.client
    /// It came before its disk was known to the reactor, and was put behind what was on its way.
    var wasPutBack = false
    /// Its disk does not start it from then on (`CLOCK_MONOTONIC`, nanoseconds); 0: starts it
    /// however late. Nothing that was started is given up for it.
    var deadline: UInt64 = 0
    /// The waiting continuation, or `IOCompletion.ignored`.
    var userData: UInt64 = 0

    init(_ operation: Operation) { self.operation = operation }

    /// An operation whose end nobody waits for.
    static func unheard(_ operation: Operation) -> Self {
        var request = Self(operation)
        request.userData = IOCompletion.ignored
        return request
    }
}

/// An open file or socket.
struct IOHandle: Sendable {
    /// Its number in the process.
    var descriptor: Int32
    /// Its place in the ring's table of files, -1 if it has none.
    var slot: Int32 = -1
}

extension IORequest {
    /// What is read or written: `length` bytes between a file and memory.
    struct Transfer {
        var file: IOHandle
        /// Read into, or written from.
        var memory: UnsafeMutableRawPointer
        /// In bytes.
        var length: Int
        /// Where in the file.
        var offset: UInt64
        /// The memory lies in the part of the arena that the backend may have registered.
        var isFixedBuffer: Bool
    }

    /// What is asked of the kernel. Results are those of the system call, 0 if nothing is said.
    ///
    /// `@unchecked Sendable`: the pointers are only passed on. Whoever asks keeps what they refer
    /// to in place, and leaves it alone, until the operation has completed.
    enum Operation: @unchecked Sendable {
        /// Result: bytes, fewer than asked for at the end of the file or where it was cut.
        case read(Transfer)
        /// Result: bytes. `isDurable`: it has completed when these are on stable media.
        case write(Transfer, isDurable: Bool)
        /// `fdatasync`.
        case synchronize(IOHandle)
        /// `fallocate`, with its `mode`.
        case allocate(IOHandle, mode: UInt32, offset: UInt64, length: UInt64)
        case truncate(IOHandle, size: UInt64)
        /// `flags` of open(2). Result: descriptor.
        case open(path: UnsafePointer<CChar>, flags: Int32, mode: UInt32)
        case close(descriptor: Int32)
        /// A file or an empty directory.
        case remove(path: UnsafePointer<CChar>)
        case makeDirectory(path: UnsafePointer<CChar>)
        case rename(from: UnsafePointer<CChar>, to: UnsafePointer<CChar>)
        /// Opens, syncs and closes the directory.
        case synchronizeDirectory(path: UnsafePointer<CChar>)
        /// On the thread of the request's disk. Whoever waits keeps the call.
        case call(Unmanaged<BlockingCall>)

        /// Result: descriptor of the new connection.
        case accept(IOHandle)
        case connect(IOHandle, address: UnsafePointer<sockaddr>, length: UInt32)
        /// `all`: waits until the memory is full or the stream ends. Result: bytes.
        case receive(IOHandle, into: UnsafeMutableRawPointer, length: Int, all: Bool)
        /// All of the message is sent. Result: bytes.
        case send(IOHandle, UnsafeMutablePointer<msghdr>)
        /// With control data; waits until the message's one piece of memory is full or the stream
        /// ends. Result: bytes.
        case receiveMessage(IOHandle, UnsafeMutablePointer<msghdr>)
        case closeSocket(descriptor: Int32)

        /// Puts the descriptor into the ring's table. Result: slot.
        case register(descriptor: Int32)
        /// Takes the slot out of the table.
        case unregister(slot: Int32)
        /// Some seconds have passed since the last. Result: 1 if the arena is registered.
        case endInterval
    }
}

extension IORequest.Operation {
    /// Bytes that a disk moves for it; 0 for all but reads and writes.
    var transferred: Int {
        switch self {
        case .read(let transfer), .write(let transfer, _): transfer.length
        default: 0
        }
    }

    /// Whether it moves bytes of a file.
    var isTransfer: Bool {
        switch self {
        case .read, .write: true
        default: false
        }
    }

    /// Has a read or write move `length` bytes at most; its caller sees a short one.
    mutating func shorten(to length: Int) {
        switch self {
        case .read(var transfer):
            transfer.length = min(transfer.length, length)
            self = .read(transfer)
        case .write(var transfer, let isDurable):
            transfer.length = min(transfer.length, length)
            self = .write(transfer, isDurable: isDurable)
        default: break
        }
    }
}
