import Bytes
import ContainerFormat
import Model
import Reactor

/// A directory that may be measured: a volume of this store, or an empty one.
public struct MeasuredPath: Sendable {
    public let path: String
    /// Whether it holds an Apus volume.
    public let isVolume: Bool
    private let lock: File?

    /// What an empty directory may hold: a file system's own, and what a measurement left.
    private static let passedOver: Set<String> = [
        "lost+found", DiskProfile.fileName, DiskProfile.fileName + ".new",
    ]

    /// Looks at `path` and changes nothing.
    ///
    /// Throws `badRequest` if there is no such directory, `invalidArgument` if it holds foreign
    /// data, `versionMismatch` or `corrupt` for a volume that cannot be read, and, if the volume is
    /// to be had alone, `conflict` if a datanode uses it.
    /// - Parameter alone: holds the volume's lock as long as the value lives.
    public static func look(
        at path: String, on reactor: Reactor, alone: Bool
    ) async throws(StoreError) -> MeasuredPath {
        do throws(IOError) {
            guard let status = try await reactor.status(path) else {
                throw IOError(code: 2, operation: "open", path: path)
            }
            guard status.isDirectory else { throw IOError(code: 20, operation: "open", path: path) }
        } catch {
            throw StoreError(
                .badRequest, "\(path) is no directory that can be measured: \(error.description)")
        }
        let version: [UInt8]?
        let names: [String]
        do throws(IOError) {
            names = try await reactor.list(path)
            version = try await read(
                path + "/VERSION", limit: VolumeVersion.largestSize, on: reactor)
        } catch { throw StoreError(.io, error.description) }
        guard let version else {
            if let strange = names.first(where: { !passedOver.contains($0) }) {
                throw StoreError(
                    .invalidArgument,
                    "\(path) holds data that is not Apus's (\(strange)): give a volume's directory, "
                        + "or an empty one")
            }
            return MeasuredPath(path: path, isVolume: false, lock: nil)
        }
        do throws(FormatError) { _ = try VolumeVersion(parsing: version) } catch {
            let isNewer = if case .unknownVersion = error { true } else { false }
            throw StoreError(
                isNewer ? .versionMismatch : .corrupt, "\(path)/VERSION: \(error.description)")
        }
        guard alone else { return MeasuredPath(path: path, isVolume: true, lock: nil) }
        return MeasuredPath(path: path, isVolume: true, lock: try await takeLock(path, on: reactor))
    }

    /// How long a datanode that was just ended is waited for.
    private static let lockPatience = Duration.seconds(5)

    private static func takeLock(
        _ path: String, on reactor: Reactor
    ) async throws(StoreError) -> File {
        do throws(IOError) {
            let file = try await File.open(path + "/in-use.lock", [.write, .create], on: reactor)
            if try await file.lock(within: lockPatience) { return file }
        } catch { throw StoreError(.io, error.description) }
        throw StoreError(
            .conflict,
            "volume \(path) is in use by a running datanode: stop that one, or look at the disk with "
                + "`apus disk check`")
    }

    private static func read(
        _ path: String, limit: Int, on reactor: Reactor
    ) async throws(IOError) -> [UInt8]? {
        guard let status = try await reactor.status(path), !status.isDirectory else { return nil }
        let file = try await File.open(path, [.read, .direct], on: reactor)
        let buffer = reactor.pool.allocate(limit)
        let count = try await file.read(into: buffer, 0..<limit, at: 0)
        try await file.close()
        return Array(buffer.bytes[..<count])
    }

    /// Gives the volume back, if it was locked.
    public func release() async throws(StoreError) {
        do throws(IOError) { try await lock?.close() } catch {
            throw StoreError(.io, error.description)
        }
    }
}
