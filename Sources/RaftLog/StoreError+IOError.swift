import Model
import Reactor

extension StoreError {
    /// What a failed operation on a file means to the store: `noSpace` for a disk that is full,
    /// `overloaded` where descriptors or memory were wanting and it may be tried again, `io` where
    /// the disk has failed.
    public init(_ error: IOError) {
        self.init(
            error.isNoSpace ? .noSpace : error.isShortage ? .overloaded : .io, error.description)
    }
}
