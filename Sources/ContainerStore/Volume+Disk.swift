import Bytes
import ContainerFormat
import Model
import Reactor

extension DiskSettings {
    /// The settings that a disk's profile gives.
    public init(_ profile: DiskProfile) {
        self.init(
            depth: profile.depth, bytesInFlight: profile.bytesInFlight,
            operationBytes: profile.operationBytes,
            bytesPerSecond: max(1 << 20, min(profile.readBandwidth, profile.writeBandwidth)))
        client = Share(depth: profile.client.depth, weight: profile.client.weight)
        repair = Share(depth: profile.repair.depth, weight: profile.repair.weight)
        scrub = Share(depth: profile.scrub.depth, weight: profile.scrub.weight)
        background = Share(depth: profile.background.depth, weight: profile.background.weight)
    }
}

extension Volume {
    var profilePath: String { path + "/" + DiskProfile.fileName }
    var scrubTimesPath: String { path + "/scrubbed" }

    /// Works by what `apus disk tune` found of the disk, if it has been run.
    ///
    /// Throws `versionMismatch` for a profile of a newer program, `corrupt` for a damaged one.
    func loadProfile() async throws(StoreError) {
        let bytes: [UInt8]
        do throws(IOError) {
            guard try await reactor.status(profilePath, disk: disk) != nil else { return }
            bytes = try await readAll(profilePath, limit: DiskProfile.largestSize)
        } catch {
            try failOpening(error)
            return
        }
        do throws(FormatError) {
            let profile = try DiskProfile(parsing: bytes)
            disk.set(DiskSettings(profile))
            committer.delay(nanoseconds: UInt64(profile.syncDelayMicroseconds) * 1000)
        } catch {
            throw StoreError(
                error.isVersion ? .versionMismatch : .corrupt,
                "\(profilePath): \(error.description); remove the file or measure the disk again")
        }
    }
}

extension ContainerStore {
    /// What was measured of each volume's disk since the store was opened: latencies, bytes,
    /// errors, depth and queues by I/O class. In the order of the volumes.
    public func disks() -> [DiskStatistics] { volumeList.map { $0.disk.statistics() } }
}
