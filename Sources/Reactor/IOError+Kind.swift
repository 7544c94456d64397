import Glibc

extension IOError {
    /// What an error is about, and so what helps against it. The one place that sorts errno.
    public enum Kind: Hashable, Sendable {
        /// The disk, the quota or the file's bound is used up. Room helps; nothing is broken.
        case full
        /// The process or the kernel has too little of something: descriptors, memory. It passes,
        /// and says nothing about the disk.
        case resource
        /// The disk has too much to do; the operation was not begun.
        case overload
        /// The disk does not answer: the operation was not begun. See `Disk.suspend`.
        case suspended
        /// It had waited for its turn on the disk beyond its deadline, and was not begun. It says
        /// nothing about the disk, but that it has more to do than its callers wait for.
        case expired
        /// The bytes' memory could not be reached, which may be a client's.
        case badAddress
        /// The file system does not know the operation.
        case unsupported
        /// Nothing is there by that name.
        case absent
        /// The disk, its file system or the way to it is broken, or what was asked is not possible
        /// on it. After a failed write or sync nobody knows what is there.
        case disk
    }

    /// Whether it passes by itself: nothing is broken, and what failed may succeed later. It says
    /// nothing about what is on the disk.
    public var isPassing: Bool {
        switch kind {
        case .resource, .overload, .suspended, .expired, .badAddress: true
        case .full, .unsupported, .absent, .disk: false
        }
    }

    public var kind: Kind {
        switch code {
        case ENOSPC, EDQUOT, EFBIG: .full
        case EMFILE, ENFILE, ENOMEM, EAGAIN, EINTR: .resource
        case ENOBUFS: .overload
        case OwnCode.suspended: .suspended
        case OwnCode.expired: .expired
        case EFAULT: .badAddress
        case EOPNOTSUPP, ENOSYS: .unsupported
        case ENOENT: .absent
        default: .disk
        }
    }
}
