import Client
import Model
import Synchronization

/// Users by access key, remembered for a few seconds.
///
/// A user found is believed for `lifetime`, so one that is deleted stops within it. One not found
/// is never remembered: a created user works at once. What keeps unknown keys from burdening the
/// store is a bound on such lookups under way.
final class UserCache<Store: ObjectStore>: Sendable {
    private struct Entry {
        var user: UserInfo
        var expires: Timestamp
    }
    private struct State {
        var entries: BoundedCache<String, Entry>
        var lookups = 0
    }

    private let store: Store
    private let clock: @Sendable () -> Timestamp
    private let lifetimeMilliseconds: Int64
    private let lookupLimit: Int
    private let state: Mutex<State>

    init(
        store: Store, clock: @escaping @Sendable () -> Timestamp, lifetimeMilliseconds: Int64,
        limit: Int, lookupLimit: Int
    ) {
        precondition(limit > 0 && lookupLimit > 0, "the limits of a cache of users are positive")
        self.store = store
        self.clock = clock
        self.lifetimeMilliseconds = lifetimeMilliseconds
        state = Mutex(State(entries: BoundedCache(limit: limit)))
        self.lookupLimit = lookupLimit
    }

    /// The user with this access key. `slowDown` when too many lookups are under way.
    func user(accessKeyID: String) async throws -> UserInfo? {
        let now = clock()
        let found: UserInfo? = try state.withLock { state throws(S3Error) -> UserInfo? in
            if let entry = state.entries.value(accessKeyID), now < entry.expires {
                return entry.user
            }
            guard state.lookups < lookupLimit else { throw S3Error(.slowDown) }
            state.lookups += 1
            return nil
        }
        if let found { return found }
        do {
            let user = try await store.user(accessKeyID: accessKeyID)
            finish(accessKeyID, user, now)
            return user
        } catch {
            finish(accessKeyID, nil, now)
            throw error
        }
    }

    private func finish(_ accessKeyID: String, _ user: UserInfo?, _ now: Timestamp) {
        state.withLock { state in
            state.lookups -= 1
            guard let user else {
                state.entries.remove(accessKeyID)
                return
            }
            let expires = Timestamp(milliseconds: now.milliseconds + lifetimeMilliseconds)
            state.entries.insert(Entry(user: user, expires: expires), for: accessKeyID)
        }
    }
}
