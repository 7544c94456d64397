import Foundation
import Logging
import Model

/// The file `volumes.json` in a datanode's own directory: at which paths it has had volumes.
///
/// A path whose disk is not mounted is an empty directory, like that of a new disk. Formatting it
/// would fill the file system below it, and what the datanode had there would be hidden when the
/// disk comes back. So a path that has had a volume is not made one a second time, unless somebody
/// says that the disk was replaced.
struct VolumeRecord: Codable, Equatable {
    static let fileName = "volumes.json"
    /// The version written, and the only one read.
    static let currentVersion = 1

    var version = Self.currentVersion
    /// In order.
    var volumes: [String]

    init(volumes: [String]) { self.volumes = Set(volumes.map(Self.plain)).sorted() }

    /// One path is written in one way.
    private static func plain(_ path: String) -> String {
        path.count > 1 && path.hasSuffix("/") ? plain(String(path.dropLast())) : path
    }

    /// The record in a datanode's directory; empty where there is none yet.
    /// - Throws: `versionMismatch` for one of a later program, `corrupt` for what is none.
    static func load(from directory: String) throws(StoreError) -> VolumeRecord {
        let path = "\(directory)/\(fileName)"
        guard FileManager.default.fileExists(atPath: path) else { return VolumeRecord(volumes: []) }
        guard let data = FileManager.default.contents(atPath: path) else {
            throw StoreError(
                .io, "\(path) cannot be read: \(String(cString: strerror(errno)))")
        }
        guard let record = try? JSONDecoder().decode(VolumeRecord.self, from: data) else {
            throw StoreError(.corrupt, "\(path) is no list of volumes")
        }
        guard record.version == currentVersion else {
            throw StoreError(
                .versionMismatch,
                "\(path) is of version \(record.version); this program knows \(currentVersion)")
        }
        return record
    }

    /// Keeps it, durably.
    func save(in directory: String) throws(StoreError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        let data: Data
        do { data = try encoder.encode(self) } catch {
            throw StoreError(.internal, "the list of volumes: \(error)")
        }
        try DurableFile.replace("\(directory)/\(Self.fileName)", with: data, mode: 0o644)
    }

    /// Why each of `paths` is not to be opened that has had a volume and has none now. What cannot
    /// be looked at is left to the store, which knows how a failing disk is told.
    func refused(of paths: [String]) -> [String: String] {
        var reasons: [String: String] = [:]
        for path in paths where volumes.contains(Self.plain(path)) && Self.hasNoVolume(path) {
            reasons[path] =
                "it was a volume of this datanode and holds none now; is its disk mounted? Mount it "
                + "and start the datanode again, or, if the disk was replaced, say so first with "
                + "`apus disk replaced \(path)`"
        }
        return reasons
    }

    /// The same, told to a log.
    func refused(of paths: [String], _ logger: Logger) -> [String: String] {
        let reasons = refused(of: paths)
        for (path, reason) in reasons.sorted(by: { $0.key < $1.key }) {
            logger.error("volume \(path) is left out: \(reason)")
        }
        return reasons
    }

    /// With the volumes that there are at `paths` now. What was one stays one, also while it is not
    /// among the paths: it may be taken back into the settings before its disk is mounted again.
    func noting(_ paths: [String]) -> VolumeRecord {
        VolumeRecord(volumes: volumes + paths.filter(Self.hasVolume))
    }

    /// Keeps what `noting` says, if that is anything new.
    func keep(_ paths: [String], in directory: String) throws(StoreError) {
        let now = noting(paths)
        if now != self { try now.save(in: directory) }
    }

    private static func hasVolume(_ path: String) -> Bool {
        access("\(path)/VERSION", F_OK) == 0
    }

    private static func hasNoVolume(_ path: String) -> Bool {
        access("\(path)/VERSION", F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR)
    }
}
