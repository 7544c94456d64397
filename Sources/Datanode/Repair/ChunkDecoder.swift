import Bytes
import ErasureCode
import Model
import Reactor

/// What a source answered.
struct SourceAnswer<Value: Sendable>: Sendable {
    var index: Int
    var result: Result<Value, StoreError>
}

/// Makes the bytes of chunks of one replica from those of d others.
///
/// Used from `reactor`; decodes large chunks elsewhere.
struct ChunkDecoder: Sendable {
    enum Limits {
        /// Chunks of fewer bytes are decoded where they are: it takes less time than to go elsewhere.
        static let decodedInPlace = 64 << 10
    }

    /// Of the replica, for messages.
    private let name: String
    private let index: Int
    private let sources: SourceReplicas
    private let codec: Codec
    /// Which sources come first, so that many containers do not all read the same ones.
    private let turn: Int
    private let reactor: Reactor

    /// - Parameter index: of the replica, from 1.
    init(
        name: String, coding: ErasureCoding, index: Int, sources: SourceReplicas, turn: Int,
        on reactor: Reactor
    ) {
        self.name = name
        self.index = index
        self.sources = sources
        codec = Codec(coding)
        self.turn = turn
        self.reactor = reactor
    }

    /// The bytes of `chunk`: read where they are, or decoded from d others.
    ///
    /// Throws `noSuchBlock` where the block has been deleted since its source listed it, `cancelled`,
    /// `unavailable` where there are too few sources.
    func bytes(of chunk: Chunk, of work: BlockWork) async throws(StoreError) -> Payload {
        guard chunk.count > 0 else { return Payload(reactor.pool.allocate(1), 0..<0) }
        var cells: [Int: Payload] = [:]
        while true {
            guard !Task.isCancelled else {
                throw StoreError(.cancelled, "the repair of \(name) was ended")
            }
            let usable = sources.usable.intersection(work.sources)
            if usable.contains(index) {
                await read(chunk, of: work, from: [index], into: &cells)
                if let copy = cells[index] { return copy }
                if work.isGone { throw StoreError(.noSuchBlock, "\(work.block) was deleted") }
                continue
            }
            guard let chosen = choose(for: chunk, from: usable, have: Set(cells.keys)) else {
                throw shortage(work)
            }
            if chosen.isEmpty { return try await decode(chunk, cells) }
            await read(chunk, of: work, from: chosen, into: &cells)
            if work.isGone { throw StoreError(.noSuchBlock, "\(work.block) was deleted") }
        }
    }

    /// Those that are whole, as long as they suffice.
    private func choose(for chunk: Chunk, from usable: Set<Int>, have: Set<Int>) -> [Int]? {
        chunk.choose(
            from: usable.subtracting(sources.damaged), have: have, coding: codec.coding,
            turn: turn)
            ?? chunk.choose(from: usable, have: have, coding: codec.coding, turn: turn)
    }

    /// Reads the parts of `chunk` that lie with the sources `indexes`. One that fails is not asked
    /// again: for this block where its bytes are at fault, for any where it is the source.
    private func read(
        _ chunk: Chunk, of work: BlockWork, from indexes: [Int], into cells: inout [Int: Payload]
    ) async {
        let answers = await withTaskGroup(
            of: SourceAnswer<Payload>.self, returning: [SourceAnswer<Payload>].self
        ) { group in
            for index in indexes {
                let range = chunk.range(of: index)
                group.addTask(executorPreference: reactor) { [sources] in
                    do throws(StoreError) {
                        let payload = try await sources.read(work.block, of: index, range)
                        return SourceAnswer(index: index, result: .success(payload))
                    } catch { return SourceAnswer(index: index, result: .failure(error)) }
                }
            }
            var answers: [SourceAnswer<Payload>] = []
            for await answer in group { answers.append(answer) }
            return answers
        }
        for answer in answers {
            switch answer.result {
            case .success(let payload): cells[answer.index] = payload
            case .failure(let error):
                switch error.code {
                case .cancelled: break
                case .noSuchBlock: work.noteGone(at: answer.index, error)
                case .corrupt, .io, .badRequest: work.exclude(answer.index, error)
                default: sources.giveUp(answer.index, error)
                }
            }
        }
    }

    private func shortage(_ work: BlockWork) -> StoreError {
        StoreError(
            .unavailable,
            "\(name): block \(work.block) needs \(codec.coding.data) of its replicas, and "
                + "there are too few: \(work.troubles); \(sources.troubles)")
    }

    /// The bytes of `chunk` from those of d others.
    private func decode(
        _ chunk: Chunk, _ cells: [Int: Payload]
    ) async throws(StoreError) -> Payload {
        if chunk.count * codec.coding.data < Limits.decodedInPlace {
            return try Self.decode(chunk, cells, by: codec)
        }
        // The reactor serves clients meanwhile.
        let codec = codec
        return try await Task.detached { () -> Result<Payload, StoreError> in
            do throws(StoreError) {
                return .success(try Self.decode(chunk, cells, by: codec))
            } catch { return .failure(error) }
        }.value.get()
    }

    private static func decode(
        _ chunk: Chunk, _ cells: [Int: Payload], by codec: Codec
    ) throws(StoreError) -> Payload {
        let buffer = BufferPool.process.allocate(chunk.count)
        var known: [UnsafeRawBufferPointer?] = (1...codec.coding.width).map { index in
            if let payload = cells[index] {
                return UnsafeRawBufferPointer(
                    payload.buffer.bytes(in: payload.offset..<payload.offset + payload.count))
            }
            let isEmpty = index != chunk.index && chunk.range(of: index).isEmpty
            return isEmpty ? UnsafeRawBufferPointer(start: nil, count: 0) : nil
        }
        known[chunk.index - 1] = nil
        do throws(ErasureCodeError) {
            try codec.decode(
                known,
                into: [
                    .init(index: chunk.index - 1, bytes: buffer.bytes(in: 0..<chunk.count))
                ])
        } catch {
            throw StoreError(.unavailable, "\(error)")
        }
        withExtendedLifetime(cells) {}
        return Payload(buffer, 0..<chunk.count)
    }
}
