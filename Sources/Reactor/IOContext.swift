import Telemetry

/// Why something is done, and until when: handed on from a request through the store to its files,
/// and to other roles.
///
/// It says how the disks and the other roles are to treat the work; it is no permission for it.
public struct IOContext: Sendable {
    /// Whom it gives way to on a disk.
    public var ioClass: IOClass
    /// When nobody waits for it any more: what has not been begun by then is not begun. What changes
    /// something may have been done all the same.
    public var deadline: MonotonicTime?
    /// What is noted of the request that it is for; nil where it is not followed.
    public var trace: TraceContext?

    public init(
        _ ioClass: IOClass = .client, until deadline: MonotonicTime? = nil,
        trace: TraceContext? = nil
    ) {
        self.ioClass = ioClass
        self.deadline = deadline
        self.trace = trace
    }

    /// Somebody waits for it, without limit.
    public static let client = IOContext(.client)
    /// For lost replicas.
    public static let repair = IOContext(.repair)
    /// Looks for damage.
    public static let scrub = IOContext(.scrub)
    /// Can wait.
    public static let background = IOContext(.background)
}
