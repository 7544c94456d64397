import Crypto
import Synchronization

/// Keeps derived signing keys: four HMACs a request are saved. Bounded; any executor.
final class SigningKeyCache: Sendable {
    private struct Key: Hashable {
        var secret: String
        var date: String
        var region: String
    }

    private let limit: Int
    private let keys = Mutex<[Key: SymmetricKey]>([:])

    /// - Parameter limit: keys kept. When they are that many, all are dropped: a day has one key
    ///   for each user and region, so that happens at most on days of unusual traffic.
    init(limit: Int) {
        precondition(limit > 0, "a cache of signing keys holds at least one")
        self.limit = limit
    }

    /// The key of `secret` for the day and region of `credential`. The secret is part of the
    /// cache's key, so a user whose secret has changed never meets an old one.
    func signingKey(
        secret: String, _ credential: RequestSignature.Credential
    ) -> SymmetricKey {
        let key = Key(secret: secret, date: credential.date, region: credential.region)
        if let found = keys.withLock({ $0[key] }) { return found }
        let made = SigV4.signingKey(
            secret: secret, date: credential.date, region: credential.region)
        keys.withLock { keys in
            if keys.count >= limit { keys.removeAll(keepingCapacity: true) }
            keys[key] = made
        }
        return made
    }

    /// Keys held now; for tests.
    var count: Int { keys.withLock { $0.count } }
}
