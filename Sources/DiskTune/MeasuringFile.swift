import Bytes
import Model
import Reactor
import Telemetry

/// A file without a name, fully written, that is read and overwritten to measure the disk below.
///
/// It has no name from its first moment (`O_TMPFILE`; where the file system knows no such, its name
/// is removed at once): however the program ends, the space comes back.
struct MeasuringFile: Sendable {
    let file: File
    let bytes: Int

    /// Space that must stay free beside the file, in bytes.
    static let spareBytes = 64 << 20

    /// Makes the file in `directory` and writes every byte: reads of what was never written reach
    /// no disk. `wrote` is told of each MiB.
    ///
    /// Throws `noSpace`, which says how much is needed and how much there is, and `io`.
    static func make(
        in directory: String, bytes: Int, on reactor: Reactor,
        wrote: @escaping @Sendable (Int) -> Void
    ) async throws(StoreError) -> MeasuringFile {
        precondition(bytes > 0 && bytes % (1 << 20) == 0, "a measuring file has whole MiB")
        do throws(IOError) {
            let space = try await reactor.fileSystemStatus(directory)
            guard space.available >= bytes + spareBytes else {
                throw IOError(code: 28, operation: "find space in", path: directory)
            }
            let file = try await File.open(
                directory, [.read, .write, .unnamed, .direct], on: reactor)
            let made = MeasuringFile(file: file, bytes: bytes)
            do throws(IOError) { try await file.allocate(0..<bytes) } catch {
                if error.isNoSpace { throw error }
            }
            try await made.fill(wrote)
            try await file.synchronize()
            return made
        } catch {
            guard error.isNoSpace else { throw StoreError(.io, error.description) }
            let available = try? await reactor.fileSystemStatus(directory).available
            throw StoreError(
                .noSpace,
                "\(directory) needs \((bytes + spareBytes) >> 20) MiB of free space to be measured"
                    + (available.map { " and has \($0 >> 20) MiB" } ?? ""))
        }
    }

    private func fill(_ wrote: @escaping @Sendable (Int) -> Void) async throws(IOError) {
        let count = bytes >> 20
        let cursor = Counter()
        let failure = await withTaskGroup(of: IOError?.self) { group in
            for task in 0..<8 {
                group.addTask(executorPreference: file.reactor) {
                    let payload = self.noise(1 << 20, seed: UInt64(task))
                    // Tasks take every eighth MiB, near enough to one after the other.
                    var index = task
                    do throws(IOError) {
                        while index < count {
                            try await self.file.write(payload, at: index << 20)
                            cursor.add()
                            wrote(1 << 20)
                            index += 8
                        }
                        return nil
                    } catch { return error }
                }
            }
            var failure: IOError?
            for await error in group { failure = failure ?? error }
            return failure
        }
        if let failure { throw failure }
    }

    /// Bytes that no disk can make smaller.
    func noise(_ count: Int, seed: UInt64) -> Payload {
        let buffer = file.reactor.pool.allocate(count)
        var random = SplitMix64(state: seed &* 0x9E37_79B9)
        let words = buffer.bytes(in: 0..<count).bindMemory(to: UInt64.self)
        for index in words.indices { words[index] = random.next() }
        return Payload(buffer, 0..<count)
    }
}
