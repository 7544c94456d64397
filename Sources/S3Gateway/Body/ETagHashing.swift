import Checksum
import Synchronization

/// Computes the MD5s of many uploads side by side, in the lanes of vector registers.
///
/// One message is hashed no faster than 0.7 GB/s, because each step waits for the one before;
/// eight side by side take little longer than one. So bytes wait, in the memory they arrived in,
/// until enough uploads have some; then whoever brought the last of them hashes for all. Nobody
/// waits but who is far ahead of the hashing, or at the end of its upload.
///
/// Thread-safe. The state lies behind one lock that is never held while hashing.
final class ETagHashing: Sendable {
    enum Limits {
        /// Bytes of an upload that make a lane worth filling.
        static let ready = 128 << 10
        /// Waiting bytes of all uploads together, about.
        static let budget = 128 << 20
        /// Waiting bytes of one upload at which its sender has to wait: its share of the budget,
        /// within these. At half of it they are hashed, with whom there is.
        static let share = 1 << 20...16 << 20
        /// Bytes of one upload hashed before others are looked at again.
        static let quantum = 1 << 20
        /// Up to so many bytes are hashed at once and alone: the lanes are not worth it.
        static let alone = 16 << 10
    }

    /// Bytes that wait, and what keeps them in place.
    struct Piece: Sendable {
        var owner: any Sendable
        var address: UInt
        var count: Int

        var bytes: UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: address), count: count)
        }
    }

    private struct State {
        /// Uploads that have begun and not ended.
        var open = 0
        /// Uploads with bytes that nobody hashes at the moment.
        var waiting: [ETagStream] = []
        /// Somebody is hashing.
        var isRunning = false
    }
    private let state = Mutex(State())

    /// Waiting bytes at which the sender of an upload has to wait.
    fileprivate var share: Int {
        let share = Limits.budget / max(1, state.withLock { $0.open })
        return min(max(share, Limits.share.lowerBound), Limits.share.upperBound)
    }

    /// A new upload. To be ended by `ETagStream.finish` or `close`.
    func open() -> ETagStream {
        state.withLock { $0.open += 1 }
        return ETagStream(self)
    }

    fileprivate func close(_ stream: ETagStream) {
        state.withLock { state in
            state.open -= 1
            state.waiting.removeAll { $0 === stream }
        }
    }

    /// Notes that `stream` has bytes, and hashes if it is time to.
    fileprivate func noteWaiting(_ stream: ETagStream, isForced: Bool) {
        let mustRun = state.withLock { state in
            if !state.waiting.contains(where: { $0 === stream }) { state.waiting.append(stream) }
            guard !state.isRunning, isForced || Self.isWorthwhile(state) else { return false }
            state.isRunning = true
            return true
        }
        if mustRun { run() }
    }

    /// Whether seven in eight of the uploads that could share the lanes have bytes for it.
    private static func isWorthwhile(_ state: State) -> Bool {
        let possible = max(1, min(MD5.lanes, state.open))
        return state.waiting.count { $0.waitingBytes >= Limits.ready } >= possible - possible / 8
    }

    /// Whom to hash together: those at their end and far behind, and with them whoever has enough,
    /// the fullest first.
    private static func choose(_ waiting: [ETagStream]) -> [ETagStream] {
        let ranked = waiting.map { ($0, $0.isPressing, $0.waitingBytes) }
            .filter { $0.1 || $0.2 >= Limits.ready }
            .sorted { ($0.1 ? 1 : 0, $0.2) > ($1.1 ? 1 : 0, $1.2) }
        return ranked.prefix(MD5.lanes).map(\.0)
    }

    private func run() {
        while true {
            let streams: [ETagStream]? = state.withLock { state in
                let isPressing = state.waiting.contains { $0.isPressing }
                guard !state.waiting.isEmpty, isPressing || Self.isWorthwhile(state) else {
                    state.isRunning = false
                    return nil
                }
                let chosen = Self.choose(state.waiting)
                state.waiting.removeAll { stream in chosen.contains { $0 === stream } }
                return chosen
            }
            guard let streams else { return }
            hash(streams)
            state.withLock { state in
                state.waiting += streams.filter { stream in
                    stream.waitingBytes >= (stream.isPressing ? 1 : Limits.ready)
                        && !stream.isClosed
                        && !state.waiting.contains { $0 === stream }
                }
            }
            for stream in streams { stream.wake() }
        }
    }

    /// Hashes equally many bytes of each, so that the lanes stay full: as many as the one has that
    /// has the fewest, at most a quantum.
    private func hash(_ streams: [ETagStream]) {
        let least = streams.map(\.waitingBytes).min() ?? 0
        let count = min(least, Limits.quantum)
        var pieces = streams.map { $0.take(count) }
        var jobs = zip(streams, pieces).map { stream, pieces in
            let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
            return MD5.Job(stream.hash, bytes: pieces.first?.bytes ?? nothing)
        }
        while MD5.advance(&jobs) > 0 {
            for index in jobs.indices where jobs[index].bytes.isEmpty && !pieces[index].isEmpty {
                pieces[index].removeFirst()
                if let next = pieces[index].first { jobs[index].bytes = next.bytes }
            }
        }
        for (stream, job) in zip(streams, jobs) { stream.put(job.hash) }
    }
}

/// The MD5 of one upload. Used by one task.
final class ETagStream: Sendable {
    private struct State {
        var hash = MD5()
        var pieces: [ETagHashing.Piece] = []
        var waitingBytes = 0
        /// Bytes are being hashed by whoever runs the lanes.
        var isTaken = false
        var isEnding = false
        /// Waiting bytes at which its sender has to wait, as of the last that came.
        var share = ETagHashing.Limits.share.upperBound
        /// Judged anew each time: whoever waits is hashed for until it may go on.
        var isFarBehind: Bool { waitingBytes >= share / 2 }
        var isClosed = false
        var waiter: UnsafeContinuation<Void, Never>?
    }
    private let hashing: ETagHashing
    private let state = Mutex(State())

    fileprivate init(_ hashing: ETagHashing) { self.hashing = hashing }

    fileprivate var waitingBytes: Int { state.withLock { $0.waitingBytes } }
    fileprivate var isClosed: Bool { state.withLock { $0.isClosed } }
    /// Whether somebody waits for it, or soon will.
    fileprivate var isPressing: Bool {
        state.withLock { state in
            state.waitingBytes > 0
                && (state.isEnding || state.isFarBehind)
        }
    }
    fileprivate var hash: MD5 { state.withLock { $0.hash } }

    /// Takes bytes, which `owner` keeps in place for as long as it lives. Suspends while too many
    /// wait.
    func add(_ bytes: UnsafeRawBufferPointer, of owner: any Sendable) async {
        guard !bytes.isEmpty else { return }
        let piece = ETagHashing.Piece(
            owner: owner, address: UInt(bitPattern: bytes.baseAddress), count: bytes.count)
        let share = hashing.share
        let (waiting, isForced) = state.withLock { state in
            state.pieces.append(piece)
            state.waitingBytes += piece.count
            state.share = share
            return (state.waitingBytes, state.isFarBehind)
        }
        guard waiting >= ETagHashing.Limits.ready else { return }
        hashing.noteWaiting(self, isForced: isForced)
        if waiting >= share { await wait { $0.waitingBytes < share } }
    }

    /// The digest of everything, 16 bytes. Ends the stream.
    func finish() async -> [UInt8] {
        defer { close() }
        let alone = state.withLock { state -> [UInt8]? in
            state.isEnding = true
            guard !state.isTaken, state.waitingBytes <= ETagHashing.Limits.alone else { return nil }
            for piece in state.pieces { state.hash.update(piece.bytes) }
            state.pieces = []
            state.waitingBytes = 0
            return state.hash.finalize()
        }
        if let alone { return alone }
        hashing.noteWaiting(self, isForced: true)
        await wait { $0.waitingBytes == 0 && !$0.isTaken }
        return state.withLock { $0.hash.finalize() }
    }

    /// Ends the stream; what waits is dropped.
    func close() {
        let isFirst = state.withLock { state in
            defer {
                state.isClosed = true
                state.pieces = []
                state.waitingBytes = 0
            }
            return !state.isClosed
        }
        if isFirst { hashing.close(self) }
    }

    private func wait(until isDone: @Sendable (borrowing State) -> Bool) async {
        while true {
            let isOver = state.withLock { isDone($0) }
            if isOver { return }
            await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
                let isReady = state.withLock { state in
                    if isDone(state) { return true }
                    state.waiter = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        }
    }

    // MARK: For who hashes

    /// Takes the first `count` bytes off the queue; none if there are fewer, since the upload was
    /// given up meanwhile.
    fileprivate func take(_ count: Int) -> [ETagHashing.Piece] {
        state.withLock { state in
            guard count > 0, count <= state.waitingBytes else { return [] }
            var taken: [ETagHashing.Piece] = []
            var left = count
            while left > 0 {
                var piece = state.pieces[taken.count]
                piece.count = min(piece.count, left)
                left -= piece.count
                taken.append(piece)
            }
            let last = taken.count - 1
            let rest = state.pieces[last].count - taken[last].count
            if rest > 0 {
                state.pieces[last].address += UInt(taken[last].count)
                state.pieces[last].count = rest
            }
            state.pieces.removeFirst(rest > 0 ? last : last + 1)
            state.waitingBytes -= count
            state.isTaken = true
            return taken
        }
    }

    fileprivate func put(_ hash: MD5) {
        state.withLock { state in
            state.hash = hash
            state.isTaken = false
        }
    }

    fileprivate func wake() {
        let waiter = state.withLock { state in
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }
}
