import Model
import Synchronization
import Wire

/// Users by access key, which every signed request asks for. Emptied by each change of a user.
/// Thread-safe.
final class UserCache: Sendable {
    enum Limits {
        static let users = 4096
    }

    private struct State {
        var users = BoundedCache<String, OMUser>(limit: Limits.users)
        var generation = 0
    }

    private let state = Mutex(State())

    /// The user, if known, and a number to give to `insert` with what was read afterwards.
    func find(_ accessKeyID: String) -> (user: OMUser?, generation: Int) {
        state.withLock { ($0.users.value(accessKeyID), $0.generation) }
    }

    /// Remembers `user` unless users have changed since `generation`.
    func insert(_ user: OMUser, generation: Int) {
        state.withLock { state in
            guard state.generation == generation else { return }
            state.users.insert(user, for: user.accessKeyID)
        }
    }

    func removeAll() {
        state.withLock { state in
            state.generation += 1
            state.users.removeAll()
        }
    }
}
