import Model
import Reactor

extension StoreError {
    /// What a failed operation on a file means to the store: `noSpace` or `io`.
    public init(_ error: IOError) {
        self.init(error.isNoSpace ? .noSpace : .io, error.description)
    }
}
