import ContainerFormat
import Model
import Reactor

extension DiskProfile {
    /// Writes the profile into a volume's directory, durably, in place of an older one. A datanode
    /// reads it when it opens the volume. Throws `io`, `noSpace`.
    public func write(to directory: String, on reactor: Reactor) async throws(StoreError) {
        do throws(IOError) {
            try await reactor.replaceFile(directory + "/" + Self.fileName, with: encoded())
        } catch {
            throw StoreError(error.isNoSpace ? .noSpace : .io, error.description)
        }
    }
}
