import Glibc

/// The descriptors that this process may have open: files, sockets, rings.
public enum Descriptors {
    /// No process needs more; some programs go through all that they might have.
    private static let most: rlim_t = 1 << 20
    private static let kind = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)

    /// How many this process may have open at once.
    public static var limit: Int {
        var bounds = rlimit()
        guard getrlimit(kind, &bounds) == 0 else { return 1024 }
        return max(1, Int(min(bounds.rlim_cur, most)))
    }

    /// Raises the limit to what the system lets this process have. At a program's start: whoever
    /// asks for `limit` before is told a lower one.
    @discardableResult
    public static func raiseLimit() -> Int {
        var bounds = rlimit()
        let now = limit
        guard getrlimit(kind, &bounds) == 0 else { return now }
        bounds.rlim_cur = min(bounds.rlim_max, most)
        guard bounds.rlim_cur > rlim_t(now) else { return now }
        // Refused: what it has stays.
        _ = setrlimit(kind, &bounds)
        return limit
    }
}
