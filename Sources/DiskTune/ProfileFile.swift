import Bytes
import ContainerFormat
import Model
import Reactor

extension DiskProfile {
    /// Writes the profile into a volume's directory, durably, in place of an older one. A datanode
    /// reads it when it opens the volume. Throws `io`, `noSpace`.
    public func write(to directory: String, on reactor: Reactor) async throws(StoreError) {
        let path = directory + "/" + Self.fileName
        do throws(IOError) {
            let file = try await File.open(
                path + ".new", [.write, .create, .truncate], on: reactor)
            try await file.write(Payload(copying: encoded(), pool: reactor.pool), at: 0)
            try await file.synchronize()
            try await file.close()
            try await reactor.rename(path + ".new", to: path)
            try await reactor.synchronizeDirectory(directory)
        } catch {
            throw StoreError(error.isNoSpace ? .noSpace : .io, error.description)
        }
    }
}
