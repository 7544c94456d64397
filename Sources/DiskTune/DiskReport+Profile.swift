import ContainerFormat
import Reactor

extension DiskReport {
    /// A sync that takes so long (microseconds) is worth waiting for company.
    static let dearSyncMicroseconds = 1000.0
    /// The longest that the committer waits for company, in microseconds.
    static let longestDelayMicroseconds = 2000.0

    /// The settings that a datanode should use this disk with.
    ///
    /// Depth: where the small operations, reads or writes, give all they have. The classes that
    /// can wait go to the knee, so that they leave the clients' latencies alone. Bytes in flight:
    /// the same for 1 MiB. What an operation costs beside its bytes: bandwidth over rate.
    /// - Parameter time: now, in milliseconds since 1970.
    public func profile(at time: Int64) -> DiskProfile {
        let (read, write) = (self[.randomRead4K], self[.randomWrite4K])
        let (readLarge, writeLarge) = (self[.randomRead1M], self[.randomWrite1M])
        let depth = max(read.full.depth, write.full.depth)
        let knee = max(read.knee.depth, write.knee.depth)
        let large = max(readLarge.full.depth, writeLarge.full.depth)
        let defaults = DiskSettings(depth: depth)
        func share(_ share: DiskSettings.Share, _ depth: Int) -> DiskProfile.Share {
            DiskProfile.Share(depth: depth, weight: share.weight)
        }
        let perOperation = read.peak > 0 ? readLarge.peakBytes / read.peak : 0
        let isDear = sync.overwriteSyncMicroseconds >= Self.dearSyncMicroseconds
        let delay =
            isDear ? min(Self.longestDelayMicroseconds, sync.overwriteSyncMicroseconds / 8) : 0
        return DiskProfile(
            measuredAt: time, readBandwidth: Int(readLarge.peakBytes),
            writeBandwidth: Int(writeLarge.peakBytes), readIOPS: Int(read.peak),
            writeIOPS: Int(write.peak),
            overwriteSyncMicroseconds: Int(sync.overwriteSyncMicroseconds),
            newExtentSyncMicroseconds: Int(sync.newExtentSyncMicroseconds), depth: depth,
            // Twice, so that a queue of large operations never runs dry.
            bytesInFlight: max(8, 2 * large) << 20,
            operationBytes: min(max(4096, Int(perOperation)), 16 << 20),
            client: share(defaults.client, depth), repair: share(defaults.repair, knee),
            scrub: share(defaults.scrub, knee), background: share(defaults.background, knee),
            syncDelayMicroseconds: Int(delay))
    }
}
