/// Why cells could not be rebuilt.
public enum ErasureCodeError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Fewer cells are left than the code needs. `missing` are cell numbers from 0.
    case tooManyLosses(missing: [Int], present: Int, needed: Int)

    public var description: String {
        switch self {
        case .tooManyLosses(let missing, let present, let needed):
            "cells \(missing) are missing: \(present) cells are left where \(needed) are needed"
        }
    }
}
