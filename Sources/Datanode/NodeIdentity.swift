import Bytes
import Model
import Reactor

/// The file that holds a datanode's identity.
enum NodeIdentity {
    static let fileName = "datanode.id"

    /// Reads the identity, or draws one and stores it durably.
    static func load(
        from directory: String, on reactor: Reactor, random: some RandomNumberGenerator
    ) async throws(StoreError) -> DatanodeID {
        var random = random
        let path = "\(directory)/\(fileName)"
        do throws(IOError) {
            if try await reactor.status(path) == nil {
                // Volumes belong to this identity: it must not go with a directory.
                try await reactor.makeDurableDirectory(directory)
                let id = DatanodeID.random(using: &random)
                try await reactor.replaceFile(path, with: Array("\(id)\n".utf8))
            }
            let file = try await File.open(path, [.read], on: reactor)
            let buffer = reactor.pool.allocate(4096)
            let count = try await file.read(into: buffer, 0..<4096, at: 0)
            try await file.close()
            let text = String(decoding: buffer.bytes(in: 0..<count), as: UTF8.self)
            if let id = DatanodeID(text.filter { !$0.isWhitespace }) { return id }
        } catch {
            throw StoreError(.io, "the datanode's identity: \(error)")
        }
        throw StoreError(.corrupt, "\(path) does not hold a datanode's identity (a UUID)")
    }
}
