import ArgumentParser
import ContainerFormat
import Foundation
import Model

extension DiskCommand {
    /// `apus disk moved`
    struct Moved: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say that a volume of another datanode is this one's from now on.",
            discussion: """
                For a disk that was taken from a machine that is gone. Add PATH to the settings' \
                datanode.volumes; when this datanode starts next, SCM finds the replicas there. \
                Those that have been made elsewhere meanwhile are removed. The other datanode must \
                not use the disk any more.
                """)

        @OptionGroup var options: RoleOptions
        @Argument(help: "The directory of the volume.") var path: String

        func run() async throws {
            let settings = try await options.settings(for: .datanode)
            let directory = try settings.required("datanode.directory")
            let own = settings.list("datanode.volumes").filter {
                URL(fileURLWithPath: $0).standardizedFileURL
                    != URL(fileURLWithPath: path).standardizedFileURL
            }
            let moved = MovedVolume(path: path)
            let before = try await moved.adopt(by: Self.identity(in: directory), beside: own)
            print("\(path), which was datanode \(before)'s, is this one's from its next start on")
            let shared = moved.containers.intersection(
                own.reduce(into: []) { $0.formUnion(MovedVolume(path: $1).containers) })
            if !shared.isEmpty {
                print(
                    "of \(shared.count) of its \(moved.containers.count) containers this datanode "
                        + "has a replica already; a datanode has one of each: list \(path) last in "
                        + "datanode.volumes, or those on the other disks are not used")
            }
        }

        /// The datanode's, which has it since its first start.
        private static func identity(in directory: String) throws(StoreError) -> DatanodeID {
            let path = "\(directory)/datanode.id"
            guard let data = FileManager.default.contents(atPath: path) else {
                throw StoreError(
                    .invalidArgument,
                    "there is no \(path): start this datanode once, so that it has an identity")
            }
            let text = String(decoding: data, as: UTF8.self)
            guard let id = DatanodeID(text.filter { !$0.isWhitespace }) else {
                throw StoreError(.corrupt, "\(path) does not hold a datanode's identity (a UUID)")
            }
            return id
        }
    }
}

/// A volume that is to be another datanode's.
struct MovedVolume {
    let path: String

    private var file: String { "\(path)/VERSION" }

    /// Containers of which the volume has files.
    var containers: Set<UInt64> {
        let names =
            (try? FileManager.default.contentsOfDirectory(atPath: path + "/containers")) ?? []
        return Set(
            names.compactMap { name in
                guard name.hasPrefix("container-"), name.hasSuffix(".journal") else { return nil }
                return UInt64(name.dropFirst("container-".count).dropLast(".journal".count))
            })
    }

    /// Whose the volume is. Throws `invalidArgument` if it is none; `versionMismatch` or `corrupt` if
    /// its `VERSION` cannot be read.
    private func version() throws(StoreError) -> VolumeVersion {
        guard let data = FileManager.default.contents(atPath: file) else {
            throw StoreError(
                .invalidArgument,
                "\(path) is no volume: there is no \(file), or it cannot be read; is the disk "
                    + "mounted?")
        }
        do throws(FormatError) { return try VolumeVersion(parsing: Array(data)) } catch {
            if case .unknownVersion = error {
                throw StoreError(.versionMismatch, "\(file): \(error.description)")
            }
            throw StoreError(.corrupt, "\(file): \(error.description)")
        }
    }

    /// Has the volume name `datanode` as its own, durably. Returns whose it was.
    ///
    /// One file is replaced: a crash leaves it whose it was, or whose it is to be. That it was being
    /// drained where it was ends.
    /// Throws `invalidArgument` if it is no volume, is in use, is this datanode's already, or
    /// belongs to another cluster than `others`; as `version`.
    /// - Parameters:
    ///   - others: the datanode's other volumes; those that cannot be read say nothing.
    ///   - patience: how long one that is in use is waited for.
    func adopt(
        by datanode: DatanodeID, beside others: [String] = [],
        patience: Duration = DirectoryLock.patience
    ) async throws(StoreError) -> DatanodeID {
        var version = try self.version()
        for other in others {
            guard let own = try? MovedVolume(path: other).version().cluster,
                let cluster = version.cluster, own != cluster
            else { continue }
            throw StoreError(
                .invalidArgument,
                "\(path) belongs to cluster \(cluster), and \(other) to \(own): a disk stays in its "
                    + "cluster")
        }
        let before = version.datanode
        guard before != datanode else {
            throw StoreError(
                .invalidArgument, "\(path) is this datanode's already: nothing is to be said")
        }
        // A datanode that works on the volume has it.
        let lock = try await DirectoryLock(path, file: "in-use.lock", patience: patience)
        defer { lock.release() }
        version = try self.version()
        unlink(path + "/leaving")
        version.datanode = datanode
        try DurableFile.replace(file, with: Data(version.encoded()), mode: 0o644)
        return before
    }
}
