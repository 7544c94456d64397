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
            try await reactor.makeDirectory(directory)
            if try await reactor.status(path) == nil {
                let id = DatanodeID.random(using: &random)
                let temporary = path + ".new"
                let file = try await File.open(
                    temporary, [.write, .create, .truncate], on: reactor)
                try await file.write(
                    Payload(copying: Array("\(id)\n".utf8), pool: reactor.pool), at: 0)
                try await file.synchronize()
                try await file.close()
                try await reactor.rename(temporary, to: path)
                try await reactor.synchronizeDirectory(directory)
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
