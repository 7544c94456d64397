/// A request for a read index.
struct ReadRequest {
    /// Who asked; this member itself or nobody for its own.
    var from: PeerID
    /// The bytes by which the caller knows it.
    var context: [UInt8]
    /// The commit index when it was asked.
    var index: LogIndex
}

/// Reads that wait for a leader to know that it leads (Raft thesis, section 6.4).
///
/// Reads are numbered in a term as they come. A heartbeat carries the number of the latest, and
/// its answer brings it back: once a quorum has answered with a number, all reads up to it are
/// confirmed, so that one round of heartbeats serves all that came before it.
struct ReadQueue {
    /// Requests that came before the first entry of the leader's term was committed.
    var waiting: [ReadRequest] = []
    private var unconfirmed: [ReadRequest] = []
    private var confirmed: UInt64 = 0

    /// Reads that wait for anything.
    var count: Int { waiting.count + unconfirmed.count }

    /// The number of the latest read that is not confirmed; nil if none is.
    var latest: UInt64? {
        unconfirmed.isEmpty ? nil : confirmed + UInt64(unconfirmed.count)
    }

    /// The number of the latest read that was ever asked.
    var issued: UInt64 { confirmed + UInt64(unconfirmed.count) }

    /// Adds a read, numbered next.
    mutating func append(_ request: ReadRequest) { unconfirmed.append(request) }

    /// Takes out the reads up to a number, in order.
    mutating func confirm(through number: UInt64) -> [ReadRequest] {
        guard number > confirmed, !unconfirmed.isEmpty else { return [] }
        let count = Int(min(number - confirmed, UInt64(unconfirmed.count)))
        confirmed += UInt64(count)
        if count == unconfirmed.count {
            defer { unconfirmed = [] }
            return unconfirmed
        }
        defer { unconfirmed.removeFirst(count) }
        return Array(unconfirmed[..<count])
    }
}

/// What a heartbeat carries and its answer brings back.
struct HeartbeatContext: Equatable {
    /// The latest read to confirm; 0 if none waits.
    var read: UInt64
    /// The leader's tick when it was sent, by which its lease is measured.
    var tick: UInt64

    /// The latest read, and the tick of sending counted from 1.
    init(read: UInt64, tick: UInt64) {
        self.read = read
        self.tick = tick
    }

    /// 16 bytes, little-endian.
    var encoded: [UInt8] {
        [read, tick].flatMap { number in
            stride(from: 0, to: 64, by: 8).map { UInt8(truncatingIfNeeded: number >> UInt64($0)) }
        }
    }

    /// Nil unless there are 16 bytes.
    init?(decoding bytes: [UInt8]) {
        guard bytes.count == 16 else { return nil }
        func number(_ start: Int) -> UInt64 {
            bytes[start..<start + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        self.init(read: number(0), tick: number(8))
    }
}
