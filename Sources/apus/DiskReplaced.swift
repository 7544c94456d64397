import ArgumentParser
import Foundation
import Model

extension DiskCommand {
    /// `apus disk replaced`
    struct Replaced: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say that the disk of a volume was replaced, and what it held is gone.",
            discussion: """
                A datanode leaves out a volume that it had and that is empty now: its disk may not \
                be mounted. After this the datanode makes a new volume there at its next start.
                """)

        @OptionGroup var options: RoleOptions
        @Argument(help: "The directory of the volume, as the settings have it.") var path: String

        func run() async throws {
            let settings = try await options.settings(for: .datanode)
            let directory = try settings.required("datanode.directory")
            let record = try VolumeRecord.load(from: directory)
            guard record.volumes.contains(path) else {
                let known = record.volumes.joined(separator: " ")
                throw StoreError(
                    .invalidArgument,
                    "\(path) was no volume of this datanode; there were: "
                        + (known.isEmpty ? "none" : known))
            }
            guard record.refused(of: [path])[path] != nil else {
                throw StoreError(
                    .invalidArgument, "\(path) holds a volume: nothing was replaced")
            }
            try VolumeRecord(volumes: record.volumes.filter { $0 != path }).save(in: directory)
            print("\(path) is made a new volume when the datanode starts next")
        }
    }
}
