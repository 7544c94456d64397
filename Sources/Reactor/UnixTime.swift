import Glibc

extension MonotonicTime {
    /// Unix time minus this clock, in nanoseconds, at this moment: what makes times of this clock
    /// comparable with those of other machines. Moves as the wall clock is set.
    public static func unixOffset() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        let unix = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
        return unix &- now().nanoseconds
    }
}
