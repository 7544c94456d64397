import Glibc

/// A failed operation of the operating system.
public struct IOError: Error, Hashable, Sendable, CustomStringConvertible {
    /// errno, positive, or one of `OwnCode`.
    public var code: Int32
    public var operation: String
    public var path: String

    /// Codes of the reactor's own, above the kernel's last (4095). None of the kernel's would do:
    /// drivers answer `ETIMEDOUT` and `ETIME` for a command that they gave up, after which nobody
    /// knows what is on the disk, and here the operation was not begun.
    enum OwnCode {
        /// The disk is suspended.
        static let suspended: Int32 = 5001
        /// The operation's deadline had passed before it was its turn.
        static let expired: Int32 = 5002
    }

    public init(code: Int32, operation: String, path: String) {
        self.code = code
        self.operation = operation
        self.path = path
    }

    public var description: String {
        switch code {
        case OwnCode.suspended: "\(operation) \(path): the disk does not answer"
        case OwnCode.expired: "\(operation) \(path): waited for the disk beyond its deadline"
        default: "\(operation) \(path): \(String(cString: strerror(code))) (errno \(code))"
        }
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
