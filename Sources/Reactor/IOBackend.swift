/// How an operation ended.
struct IOCompletion: Sendable {
    /// The request's.
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
