import DequeModule

/// Decides which operations of a disk are in flight and which wait: the pure part of `Disk`.
///
/// Three rules. An operation starts if the disk's depth and its class's allow it, else it waits in
/// its class's queue, first come, first served. A free place goes to the waiting class that has had
/// least of the disk for its weight (start-time fair queueing, Goyal, Vin and Cheng, SIGCOMM
/// 1996; cost is bytes plus `operationBytes`). While clients work, each other class has at most
/// its share of the depth in flight (one operation at the least), is cut into pieces, and is paced
/// to its share of what the disk moves, or less where clients suffer (`DiskPace`): then a single
/// large operation after another cannot take more.
struct DiskQueue {
    /// An operation in flight.
    struct Slot {
        /// Who waits for it.
        var userData: UInt64 = 0
        var startedAt: UInt64 = 0
        var length = 0
        /// Of a durable write: `synchronize`, as what it takes is that.
        var opcode = IORequest.Opcode.read
        var ioClass = IOClass.client
        /// Clients' operations in flight once this one was; and how many of other classes had been
        /// started before it, `UInt64.max` if one of them was in flight.
        var depth = 0
        var othersBefore: UInt64 = 0
    }

    struct Waiting {
        var request: IORequest
        var since: UInt64
    }

    enum Admission {
        case start(IORequest)
        case wait
        /// The class's queue is full.
        case refuse
    }

    /// What one class has.
    struct Lane {
        var waiting = Deque<Waiting>()
        var inFlight = 0
        var bytesInFlight = 0
        /// What the class has had, in cost divided by weight.
        var virtualTime: UInt64 = 0
        /// Cost is multiplied by this, 2^16 divided by the weight.
        var inverseWeight: UInt64 = 1
        /// Limits while nobody else works, and while clients do.
        var depth = 1
        var sharedDepth = 1
        var sharedBytes = 1
        /// While clients work: nanoseconds that a byte of cost takes of the class's share, and when
        /// the next operation may start.
        var nanosecondsPerByte = 0.0
        var pacedUntil: UInt64 = 0
    }

    enum Limits {
        /// A client that was here less than four times the usual gap ago is taken to come back, but
        /// at least and at most so long ago: in between the other classes do not fill the disk.
        static let clientGrace: ClosedRange<UInt64> = 2_000_000...20_000_000
        /// What another class reads or writes at a time while clients work: a client's operation
        /// waits behind no more. The rest is asked for again, as after any short operation.
        static let pieceBytes = 128 << 10
    }

    /// Bits of the disk's number in `userData`; see `Reactor.admit`.
    let tag: UInt64
    private(set) var settings = DiskSettings()
    private(set) var lanes: InlineArray<4, Lane> = InlineArray { _ in Lane() }
    private var slots: [Slot] = []
    private var freeSlots: [Int] = []
    private(set) var inFlight = 0
    private(set) var queued = 0
    private var bytesInFlight = 0
    /// Whether operations are refused that are not under way.
    private(set) var isSuspended = false
    /// Where the class that was served last stood.
    private var virtualTime: UInt64 = 0
    private var clientSeenAt: UInt64 = 0
    /// Running mean of the time from one client's end to the next one's start, where that was idle.
    private var clientGap: UInt64 = 0
    private(set) var pace = DiskPace()
    /// Operations of other classes than `client` that were started.
    private var othersStarted: UInt64 = 0

    init(settings: DiskSettings, tag: UInt64) {
        self.tag = tag
        set(settings)
    }

    /// Works by `settings` from now on. What is in flight stays.
    mutating func set(_ settings: DiskSettings) {
        self.settings = settings
        for ioClass in IOClass.allCases {
            let share = settings[ioClass]
            let index = Int(ioClass.rawValue)
            let total = settings.totalWeight
            lanes[index].inverseWeight = UInt64(1 << 16) / UInt64(share.weight)
            lanes[index].depth = min(share.depth, settings.depth)
            lanes[index].sharedDepth = max(
                1, min(share.depth, settings.depth * share.weight / total))
            lanes[index].sharedBytes = max(1, settings.bytesInFlight / total * share.weight)
            let rate = Double(settings.bytesPerSecond) * Double(share.weight) / Double(total)
            lanes[index].nanosecondsPerByte = 1e9 / max(rate, 1)
        }
    }

    // MARK: Operations

    /// Takes an operation: it is to be started as returned, or waits, or is refused.
    mutating func submit(_ request: IORequest, now: UInt64) -> Admission {
        if isSuspended { return .refuse }
        let index = Int(request.disk & 3)
        if index == 0, lanes[0].inFlight == 0 {
            let gap = min(now &- min(now, clientSeenAt), Limits.clientGrace.upperBound / 4)
            clientGap = (clientGap * 7 + gap) / 8
        }
        // What a client waits for and moves no bytes neither waits nor is refused: a sync
        // covers what has completed, so it has nothing to wait for.
        let isUrgent = index == 0 && request.opcode != .read && request.opcode != .write
        if isUrgent || (lanes[index].waiting.isEmpty && fits(index, now: now)) {
            lanes[index].virtualTime = max(lanes[index].virtualTime, virtualTime)
            return .start(start(request, index, now: now))
        }
        guard lanes[index].waiting.count < Disk.Limits.queuedOperations else { return .refuse }
        if lanes[index].waiting.isEmpty {
            lanes[index].virtualTime = max(lanes[index].virtualTime, virtualTime)
        }
        lanes[index].waiting.append(Waiting(request: request, since: now))
        queued += 1
        return .wait
    }

    /// Refuses what comes from now on, or no longer. Returns what waits, which waits no more.
    mutating func suspend(_ isSuspended: Bool) -> [IORequest] {
        self.isSuspended = isSuspended
        guard isSuspended else { return [] }
        var dropped: [IORequest] = []
        for index in 0..<4 {
            dropped += lanes[index].waiting.map(\.request)
            lanes[index].waiting.removeAll()
        }
        queued = 0
        return dropped
    }

    /// Takes the operation in `slot` off the disk.
    mutating func complete(slot: Int, now: UInt64) -> Slot {
        precondition(slots.indices.contains(slot), "a completion of no operation")
        let done = slots[slot]
        freeSlots.append(slot)
        let index = Int(done.ioClass.rawValue)
        lanes[index].inFlight -= 1
        lanes[index].bytesInFlight -= done.length
        inFlight -= 1
        bytesInFlight -= done.length
        precondition(lanes[index].inFlight >= 0, "more operations completed than were started")
        if index == 0 {
            clientSeenAt = now
            learn(done, now: now)
        }
        return done
    }

    private mutating func learn(_ done: Slot, now: UInt64) {
        guard done.opcode == .read || done.opcode == .write else { return }
        pace.note(
            DiskPace.Operation(
                nanoseconds: now &- min(now, done.startedAt), length: done.length,
                isWrite: done.opcode == .write, depth: done.depth,
                isUndisturbed: done.othersBefore == othersStarted),
            now: now)
    }

    /// The next waiting operation that may start now, and since when it waited.
    mutating func next(now: UInt64) -> (request: IORequest, since: UInt64)? {
        guard queued > 0 else { return nil }
        var best = -1
        for index in 0..<4 where !lanes[index].waiting.isEmpty && fits(index, now: now) {
            if best < 0 || lanes[index].virtualTime < lanes[best].virtualTime { best = index }
        }
        guard best >= 0, let first = lanes[best].waiting.popFirst() else { return nil }
        queued -= 1
        return (start(first.request, best, now: now), first.since)
    }

    private func fits(_ index: Int, now: UInt64) -> Bool {
        guard inFlight < settings.depth, bytesInFlight < settings.bytesInFlight,
            lanes[index].inFlight < lanes[index].depth
        else { return false }
        if index == 0 || !isClientWorking(now: now) { return true }
        guard now >= lanes[index].pacedUntil else { return false }
        return lanes[index].inFlight == 0
            || (lanes[index].inFlight < lanes[index].sharedDepth
                && lanes[index].bytesInFlight < lanes[index].sharedBytes)
    }

    /// When to ask for the next operation though nothing completes until then: something waits for
    /// its pace, or for clients to be gone, and nothing is in flight. nil if there is no need.
    func wakeUp(now: UInt64) -> UInt64? {
        guard queued > 0, inFlight == 0 else { return nil }
        var time = clientSeenAt + clientGrace
        for index in 1..<4 where !lanes[index].waiting.isEmpty {
            time = min(time, lanes[index].pacedUntil)
        }
        return max(time, now)
    }

    private func isClientWorking(now: UInt64) -> Bool {
        lanes[0].inFlight > 0 || !lanes[0].waiting.isEmpty
            || now &- clientSeenAt < clientGrace
    }

    private var clientGrace: UInt64 {
        min(max(clientGap * 4, Limits.clientGrace.lowerBound), Limits.clientGrace.upperBound)
    }

    private mutating func start(_ request: IORequest, _ index: Int, now: UInt64) -> IORequest {
        var started = request
        let isYielding = index > 0 && isClientWorking(now: now)
        let hasBytes = request.opcode == .read || request.opcode == .write
        if isYielding, hasBytes { started.length = min(request.length, Limits.pieceBytes) }
        let length = hasBytes ? started.length : 0
        let began = lanes[index].virtualTime
        virtualTime = max(virtualTime, began)
        let cost = UInt64(length + settings.operationBytes)
        lanes[index].virtualTime = began &+ (cost &* lanes[index].inverseWeight) &>> 8
        if isYielding {
            let pause = UInt64(Double(cost) * lanes[index].nanosecondsPerByte / pace.part)
            lanes[index].pacedUntil = max(lanes[index].pacedUntil, now) &+ pause
        }
        if index > 0 { othersStarted &+= 1 }
        lanes[index].inFlight += 1
        lanes[index].bytesInFlight += length
        inFlight += 1
        bytesInFlight += length
        let slot = Slot(
            userData: request.userData, startedAt: now, length: length,
            opcode: request.isDurable ? .synchronize : request.opcode,
            ioClass: IOClass(rawValue: UInt8(index))!, depth: lanes[0].inFlight,
            othersBefore: inFlight > lanes[0].inFlight ? .max : othersStarted)
        let number: Int
        if let free = freeSlots.popLast() {
            number = free
            slots[number] = slot
        } else {
            number = slots.count
            slots.append(slot)
        }
        started.userData = UInt64(number) << 16 | tag
        return started
    }
}
