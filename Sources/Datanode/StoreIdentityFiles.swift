import Bytes
import ContainerFormat
import Model
import Reactor

/// Keeps the files that tell whether a datanode's volumes still hold what they held: an identity in
/// each volume, and one in the node's own directory that names them (docs/decisions/0011).
///
/// What cannot be read is drawn anew: then replicas count as lost that may be there, never the
/// other way round. A file of a later version is refused.
struct StoreIdentityFiles {
    let reactor: Reactor

    /// The number that stands for what is on `volumes`: those that work. All is durable when it
    /// returns.
    func load(
        from directory: String, volumes: [String],
        using random: inout some RandomNumberGenerator
    ) async throws(StoreError) -> StoreIdentity {
        var present: Set<Identity128> = []
        for volume in volumes {
            if let id = try await identity(of: volume, using: &random) { present.insert(id) }
        }
        let path = "\(directory)/\(StoreIdentity.fileName)"
        var known: StoreIdentity?
        if let bytes = try await read(path, limit: StoreIdentity.largestSize) {
            known = try Self.parsed(path) { () throws(FormatError) in
                try StoreIdentity(parsing: bytes)
            }
        }
        let identity =
            known?.continued(with: present, using: &random)
            ?? StoreIdentity(number: .random(in: 1...(.max), using: &random), volumes: present)
        if identity != known { try await replace(path, with: identity.encoded()) }
        return identity
    }

    /// Nil if the volume cannot be written: then it is not one that is known.
    private func identity(
        of volume: String, using random: inout some RandomNumberGenerator
    ) async throws(StoreError) -> Identity128? {
        let path = "\(volume)/\(VolumeIdentity.fileName)"
        do throws(StoreError) {
            if let bytes = try await read(path, limit: VolumeIdentity.largestSize),
                let known = try Self.parsed(
                    path,
                    { () throws(FormatError) in
                        try VolumeIdentity(parsing: bytes)
                    })
            {
                return known.id
            }
            let identity = VolumeIdentity(id: .random(using: &random))
            try await replace(path, with: identity.encoded())
            return identity.id
        } catch {
            if error.code == .io { return nil }
            throw error
        }
    }

    /// Nil if it is damaged; throws `versionMismatch` if a later program wrote it.
    private static func parsed<R>(
        _ path: String, _ body: () throws(FormatError) -> R
    ) throws(StoreError) -> R? {
        do throws(FormatError) {
            return try body()
        } catch {
            if case .unknownVersion = error {
                throw StoreError(.versionMismatch, "\(path): \(error.description)")
            }
            return nil
        }
    }

    private func read(_ path: String, limit: Int) async throws(StoreError) -> [UInt8]? {
        do throws(IOError) {
            guard try await reactor.status(path) != nil else { return nil }
            let file = try await File.open(path, [.read], on: reactor)
            let buffer = reactor.pool.allocate(limit)
            let count = try await file.read(into: buffer, 0..<limit, at: 0)
            try await file.close()
            return Array(buffer.bytes(in: 0..<count))
        } catch {
            throw Self.failure(error, path)
        }
    }

    private func replace(_ path: String, with bytes: [UInt8]) async throws(StoreError) {
        do throws(IOError) {
            try await reactor.replaceFile(path, with: bytes)
        } catch {
            throw Self.failure(error, path)
        }
    }

    /// What to tell of a file that could not be read or written. A volume counts as another one for
    /// a fault of its disk alone, not where the process lacks something.
    private static func failure(_ error: IOError, _ path: String) -> StoreError {
        StoreError(error.isShortage ? .overloaded : .io, "\(path): \(error.description)")
    }
}
