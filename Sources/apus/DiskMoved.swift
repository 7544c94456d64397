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
            let before = try MovedVolume(path: path).adopt(by: Self.identity(in: directory))
            print("\(path), which was datanode \(before)'s, is this one's from its next start on")
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

    /// Has the volume name `datanode` as its own, durably. Returns whose it was.
    ///
    /// One file is replaced: a crash leaves it whose it was, or whose it is to be.
    /// Throws `invalidArgument` if it is no volume, is in use, or is this datanode's already;
    /// `versionMismatch` or `corrupt` if its `VERSION` cannot be read.
    func adopt(by datanode: DatanodeID) throws(StoreError) -> DatanodeID {
        let file = "\(path)/VERSION"
        guard let data = FileManager.default.contents(atPath: file) else {
            throw StoreError(
                .invalidArgument,
                "\(path) is no volume: there is no \(file), or it cannot be read; is the disk "
                    + "mounted?")
        }
        var version: VolumeVersion
        do throws(FormatError) { version = try VolumeVersion(parsing: Array(data)) } catch {
            if case .unknownVersion = error {
                throw StoreError(.versionMismatch, "\(file): \(error.description)")
            }
            throw StoreError(.corrupt, "\(file): \(error.description)")
        }
        let before = version.datanode
        guard before != datanode else {
            throw StoreError(
                .invalidArgument, "\(path) is this datanode's already: nothing is to be said")
        }
        // A datanode that works on the volume has it.
        let lock = try DirectoryLock(path, file: "in-use.lock")
        defer { lock.release() }
        version.datanode = datanode
        try DurableFile.replace(file, with: Data(version.encoded()), mode: 0o644)
        return before
    }
}
