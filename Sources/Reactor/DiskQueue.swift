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
///
/// An operation with a deadline is started before it or not at all. One that waits beyond it is
/// found when it is its turn, and by `expire`, which the driver calls when the first of those that
/// wait is due: a disk that does nothing keeps nobody longer.
struct DiskQueue {
    /// What an operation is measured as.
    enum Kind: UInt8 {
        case read, write
        /// A durable write too, as what it takes is that.
        case synchronize
        case other

        init(_ operation: IORequest.Operation) {
            self =
                switch operation {
                case .read: .read
                case .write(_, let isDurable): isDurable ? .synchronize : .write
                case .synchronize: .synchronize
                default: .other
                }
        }
    }

    /// An operation in flight.
    struct Slot {
        /// Who waits for it.
        var userData: UInt64 = 0
        var startedAt: UInt64 = 0
        var length = 0
        var kind = Kind.other
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
        /// Its deadline has passed.
        case expire
    }

    /// What becomes of an operation that waited.
    enum Turn {
        case start(Waiting)
        /// Its deadline has passed.
        case expire(Waiting)
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
        /// How long after its deadline an operation is looked for at the latest, in nanoseconds:
        /// many that are due one after the other are found together.
        static let expiryGrain: UInt64 = 10_000_000
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
    /// No operation that waits has an earlier deadline; `UInt64.max` if none has one.
    private var firstDeadline = UInt64.max
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
        if Self.isExpired(request, now: now) { return .expire }
        let index = Int(request.ioClass.rawValue)
        if index == 0, lanes[0].inFlight == 0 {
            let gap = min(now &- min(now, clientSeenAt), Limits.clientGrace.upperBound / 4)
            clientGap = (clientGap * 7 + gap) / 8
        }
        // What a client waits for and moves no bytes neither waits nor is refused: a sync
        // covers what has completed, so it has nothing to wait for.
        let isUrgent = index == 0 && !request.operation.isTransfer
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
        if request.deadline != 0 { firstDeadline = min(firstDeadline, request.deadline) }
        return .wait
    }

    private static func isExpired(_ request: IORequest, now: UInt64) -> Bool {
        request.deadline != 0 && request.deadline <= now
    }

    /// Takes out what has waited beyond its deadline, whatever it waits for.
    mutating func expire(now: UInt64) -> [Waiting] {
        guard firstDeadline <= now else { return [] }
        var expired: [Waiting] = []
        firstDeadline = .max
        for index in 0..<4 {
            lanes[index].waiting.removeAll { waiting in
                let isExpired = Self.isExpired(waiting.request, now: now)
                if isExpired {
                    expired.append(waiting)
                } else if waiting.request.deadline != 0 {
                    firstDeadline = min(firstDeadline, waiting.request.deadline)
                }
                return isExpired
            }
        }
        queued -= expired.count
        return expired
    }

    /// When to call `expire`; nil while nothing that waits has a deadline.
    var expiry: UInt64? {
        guard queued > 0, firstDeadline < .max else { return nil }
        return (firstDeadline / Limits.expiryGrain &+ 1) &* Limits.expiryGrain
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
        firstDeadline = .max
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
        guard done.kind == .read || done.kind == .write else { return }
        pace.note(
            DiskPace.Operation(
                nanoseconds: now &- min(now, done.startedAt), length: done.length,
                isWrite: done.kind == .write, depth: done.depth,
                isUndisturbed: done.othersBefore == othersStarted),
            now: now)
    }

    /// The next waiting operation whose turn it is; nil if none may start now. One that is started
    /// is so as returned.
    mutating func next(now: UInt64) -> Turn? {
        guard queued > 0 else { return nil }
        var best = -1
        for index in 0..<4 where !lanes[index].waiting.isEmpty && fits(index, now: now) {
            if best < 0 || lanes[index].virtualTime < lanes[best].virtualTime { best = index }
        }
        guard best >= 0, var first = lanes[best].waiting.popFirst() else { return nil }
        queued -= 1
        if queued == 0 { firstDeadline = .max }
        if Self.isExpired(first.request, now: now) { return .expire(first) }
        first.request = start(first.request, best, now: now)
        return .start(first)
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
        var length = request.operation.transferred
        if isYielding, length > Limits.pieceBytes {
            length = Limits.pieceBytes
            started.operation.shorten(to: length)
        }
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
            kind: Kind(request.operation), ioClass: request.ioClass, depth: lanes[0].inFlight,
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
