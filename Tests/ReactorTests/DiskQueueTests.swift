import Testing

@testable import Reactor

extension IORequest {
    /// A read that no disk is asked for.
    fileprivate static func read(_ length: Int, offset: UInt64, _ ioClass: IOClass) -> Self {
        let nowhere = UnsafeMutableRawPointer(bitPattern: 4096)!
        var request = IORequest(
            .read(
                Transfer(
                    file: IOHandle(descriptor: -1), memory: nowhere, length: length, offset: offset,
                    isFixedBuffer: false)))
        request.disk = 1
        request.ioClass = ioClass
        return request
    }

    fileprivate var offset: UInt64 {
        guard case .read(let transfer) = operation else { return 0 }
        return transfer.offset
    }
}

/// A made-up disk behind a `DiskQueue`: so many operations at a time, each as long as its bytes
/// take, and for each class a number of callers that each ask again when they are answered.
private struct DiskModel {
    var queue: DiskQueue
    let servers: Int
    var now: UInt64 = 1_000_000_000
    /// Operations the device works on, and those it has but not begun.
    var working: [(end: UInt64, request: IORequest)] = []
    var pending: [IORequest] = []
    var lengths: [Int]
    var done = [0, 0, 0, 0]
    var doneBytes = [0, 0, 0, 0]
    var longestGap = [UInt64](repeating: 0, count: 4)
    var lastDone = [UInt64](repeating: 0, count: 4)
    var highestInFlight = [0, 0, 0, 0]
    var order: [[UInt64]] = [[], [], [], []]
    var nextOffset: UInt64 = 0

    init(_ settings: DiskSettings, servers: Int, lengths: [Int] = [4096, 4096, 4096, 4096]) {
        queue = DiskQueue(settings: settings, tag: 3)
        self.servers = servers
        self.lengths = lengths
        lastDone = Array(repeating: now, count: 4)
    }

    /// Another operation of class `index`.
    mutating func ask(_ index: Int) {
        let ioClass = IOClass(rawValue: UInt8(index))!
        var request = IORequest.read(lengths[index], offset: nextOffset, ioClass)
        nextOffset += 1
        request.userData = 1000
        if case .start(let started) = queue.submit(request, now: now) { give(started) }
    }

    private mutating func give(_ request: IORequest) {
        order[Int(request.ioClass.rawValue)].append(request.offset)
        pending.append(request)
        for index in 0..<4 {
            highestInFlight[index] = max(highestInFlight[index], queue.lanes[index].inFlight)
        }
    }

    /// Ends one operation, and has its caller ask again.
    mutating func step(again: (Int) -> Bool = { _ in true }) {
        if working.isEmpty, pending.isEmpty, let time = queue.wakeUp(now: now) {
            now = time
            while case .start(let next)? = queue.next(now: now) { give(next.request) }
        }
        while working.count < servers, !pending.isEmpty {
            let request = pending.removeFirst()
            working.append((now + 50_000 + UInt64(request.operation.transferred) / 4, request))
        }
        guard let first = working.indices.min(by: { working[$0].end < working[$1].end }) else {
            return
        }
        let (end, request) = working.remove(at: first)
        now = end
        let slot = queue.complete(slot: Int(request.userData >> 16), now: now)
        let index = Int(slot.ioClass.rawValue)
        done[index] += 1
        doneBytes[index] += slot.length
        longestGap[index] = max(longestGap[index], now - lastDone[index])
        lastDone[index] = now
        while case .start(let next)? = queue.next(now: now) { give(next.request) }
        if again(index) { ask(index) }
    }
}

@Suite("Disk queue")
struct DiskQueueTests {
    @Test("while clients wait, each class gets its share, whatever the size of its operations")
    func shares() {
        let settings = DiskSettings(depth: 16, bytesInFlight: 1 << 40, operationBytes: 200_000)
        for lengths in [[4096, 4096, 4096, 4096], [4096, 4096, 1 << 20, 65536]] {
            var model = DiskModel(settings, servers: 4, lengths: lengths)
            for index in 0..<4 { for _ in 0..<64 { model.ask(index) } }
            for _ in 0..<60_000 { model.step() }
            let cost = (0..<4).map { Double(model.doneBytes[$0] + model.done[$0] * 200_000) }
            let total = cost.reduce(0, +)
            for ioClass in IOClass.allCases {
                let share = cost[Int(ioClass.rawValue)] / total
                let due = Double(settings[ioClass].weight) / 100
                // Not above its share, unless others leave something.
                if ioClass == .client {
                    #expect(share > due - 0.02, "\(ioClass) got \(share) of \(due)")
                } else {
                    #expect(share < due + 0.02, "\(ioClass) got \(share) of \(due)")
                }
            }
        }
    }

    @Test("a class that waits is always served in the end")
    func noStarvation() {
        var settings = DiskSettings(depth: 2)
        settings.client.weight = 1000
        settings.scrub.weight = 1
        var model = DiskModel(settings, servers: 2)
        for index in 0..<4 { for _ in 0..<8 { model.ask(index) } }
        for _ in 0..<1_000_000 { model.step() }
        #expect(model.done.allSatisfy { $0 > 20 }, "\(model.done)")
    }

    @Test("without clients a background class has the whole depth, with one its share")
    func fullRate() {
        var model = DiskModel(DiskSettings(depth: 32), servers: 32)
        for _ in 0..<100 { model.ask(2) }
        for _ in 0..<1000 { model.step() }
        #expect(model.highestInFlight[2] == 32)
        // One client that comes again and again: the scrubber sinks to 7 % of the depth.
        model.ask(0)
        for _ in 0..<200 { model.step() }
        model.highestInFlight = [0, 0, 0, 0]
        for _ in 0..<1000 { model.step() }
        #expect(model.highestInFlight[0] == 1)
        #expect((1...2).contains(model.highestInFlight[2]))
        // The client goes: after the grace the scrubber has everything again.
        for _ in 0..<1000 { model.step(again: { $0 != 0 }) }
        #expect(model.highestInFlight[2] == 32)
    }

    @Test("while a single client works, large operations of another class keep to their share")
    func pace() {
        let settings = DiskSettings(
            depth: 32, operationBytes: 40_000, bytesPerSecond: 2_000_000_000)
        var model = DiskModel(settings, servers: 8, lengths: [4096, 4096, 1 << 20, 4096])
        model.ask(0)
        for _ in 0..<8 { model.ask(2) }
        // It begins below its share, and comes to it as this client does not mind.
        for _ in 0..<20_000 { model.step() }
        #expect(model.queue.pace.part > 0.9)
        let began = model.now
        let before = Double(model.doneBytes[2] + model.done[2] * 40_000)
        for _ in 0..<20_000 { model.step() }
        let seconds = Double(model.now - began) / 1e9
        let rate = (Double(model.doneBytes[2] + model.done[2] * 40_000) - before) / seconds
        #expect(rate < 1.1 * 0.07 * 2e9 && rate > 0.8 * 0.07 * 2e9, "\(rate)")
    }

    @Test("where clients suffer, a class sinks below its share, but never stands still")
    func yields() {
        // One operation at a time: whatever another class has in the device, a client waits for.
        let settings = DiskSettings(
            depth: 32, operationBytes: 40_000, bytesPerSecond: 2_000_000_000)
        var model = DiskModel(settings, servers: 1, lengths: [4096, 4096, 1 << 20, 4096])
        model.ask(0)
        for _ in 0..<8 { model.ask(2) }
        for _ in 0..<20_000 { model.step() }
        let began = model.now
        let before = (model.doneBytes[2], model.done[2], model.done[0])
        for _ in 0..<40_000 { model.step() }
        let seconds = Double(model.now - began) / 1e9
        let cost = model.doneBytes[2] - before.0 + (model.done[2] - before.1) * 40_000
        let rate = Double(cost) / seconds / (0.07 * 2e9)
        #expect(rate > 0.9 * DiskPace.Limits.leastPart, "\(rate) of its share")
        #expect(model.done[0] - before.2 > 30_000)
    }

    @Test("beside clients other classes work in pieces, without them in one")
    func pieces() {
        var model = DiskModel(
            DiskSettings(depth: 8), servers: 8, lengths: [1 << 20, 4096, 1 << 20, 4096])
        model.ask(2)
        #expect(model.queue.lanes[2].bytesInFlight == 1 << 20)
        model.step(again: { _ in false })
        model.ask(0)
        model.ask(2)
        #expect(model.queue.lanes[2].bytesInFlight == DiskQueue.Limits.pieceBytes)
        #expect(model.queue.lanes[0].bytesInFlight == 1 << 20, "clients' are not cut")
        for _ in 0..<3 { model.step(again: { _ in false }) }
        model.now += DiskQueue.Limits.clientGrace.upperBound
        model.ask(2)
        #expect(model.queue.lanes[2].bytesInFlight == 1 << 20)
    }

    @Test("clients that come now and then are waited for as long as they usually take")
    func grace() {
        var model = DiskModel(
            DiskSettings(depth: 8), servers: 8, lengths: [4096, 4096, 1 << 20, 4096])
        for _ in 0..<100 {
            model.now += 3_000_000
            model.ask(0)
            model.step(again: { _ in false })
        }
        model.now += 8_000_000
        model.ask(2)
        #expect(model.queue.lanes[2].bytesInFlight == DiskQueue.Limits.pieceBytes)
        model.step(again: { _ in false })
        model.now += 8_000_000
        model.ask(2)
        #expect(model.queue.lanes[2].bytesInFlight == 1 << 20)
    }

    @Test("what waits for its pace is started though nothing completes")
    func wakeUp() {
        var model = DiskModel(DiskSettings(depth: 32), servers: 8)
        model.ask(0)
        model.step(again: { _ in false })
        for _ in 0..<10 { model.ask(2) }
        for _ in 0..<10 { model.step(again: { _ in false }) }
        #expect(model.done[2] == 10)
    }

    @Test("a client that finds the depth free never waits behind another class")
    func clientFirst() {
        var model = DiskModel(DiskSettings(depth: 8), servers: 8)
        for _ in 0..<50 { model.ask(3) }
        model.ask(0)
        // Its first operation waits for one place; the next ones find room at once.
        for _ in 0..<200 { model.step() }
        for _ in 0..<1000 {
            model.step()
            #expect(model.queue.lanes[0].waiting.isEmpty)
        }
        #expect(model.highestInFlight[0] == 1)
    }

    @Test("operations of one class start in the order in which they came")
    func order() {
        var model = DiskModel(DiskSettings(depth: 3), servers: 2)
        for round in 0..<4000 {
            model.ask(round % 4)
            if round % 3 != 0 { model.step(again: { _ in false }) }
        }
        for _ in 0..<4000 { model.step(again: { _ in false }) }
        #expect(model.done.reduce(0, +) == 4000)
        for starts in model.order { #expect(starts == starts.sorted()) }
        #expect(model.queue.inFlight == 0 && model.queue.queued == 0)
    }

    @Test("bytes in flight are bounded, but one operation always goes")
    func bytes() {
        var model = DiskModel(
            DiskSettings(depth: 64, bytesInFlight: 4 << 20), servers: 64,
            lengths: [1 << 20, 4096, 8 << 20, 4096])
        for _ in 0..<20 { model.ask(0) }
        #expect(model.queue.inFlight == 4)
        for _ in 0..<20 { model.step(again: { _ in false }) }
        #expect(model.done[0] == 20)
        model.ask(2)
        model.ask(2)
        #expect(model.queue.inFlight == 1)
    }

    @Test("a full queue refuses; syncs of clients neither wait nor are refused")
    func bounds() {
        var queue = DiskQueue(settings: DiskSettings(depth: 1), tag: 3)
        var request = IORequest.read(4096, offset: 0, .client)
        guard case .start(let first) = queue.submit(request, now: 1) else {
            Issue.record("the first operation must start")
            return
        }
        for _ in 0..<Disk.Limits.queuedOperations {
            guard case .wait = queue.submit(request, now: 1) else {
                Issue.record("must wait")
                return
            }
        }
        guard case .refuse = queue.submit(request, now: 1) else {
            Issue.record("must be refused")
            return
        }
        request.operation = .synchronize(IOHandle(descriptor: -1))
        guard case .start(let sync) = queue.submit(request, now: 1) else {
            Issue.record("a sync must start")
            return
        }
        #expect(sync.userData != first.userData)
        #expect(queue.complete(slot: Int(first.userData >> 16), now: 5).startedAt == 1)
        guard case nil = queue.next(now: 5) else {
            Issue.record("the sync still takes the one place")
            return
        }
        _ = queue.complete(slot: Int(sync.userData >> 16), now: 6)
        guard case .start(let next)? = queue.next(now: 6) else {
            Issue.record("the place is free")
            return
        }
        #expect(next.since == 1)
    }

    // MARK: Deadlines

    /// A queue with one place, taken from time 1 on, and the slot of who has it.
    private static func busyQueue() throws -> (DiskQueue, slot: Int) {
        var queue = DiskQueue(settings: DiskSettings(depth: 1), tag: 3)
        guard case .start(let first) = queue.submit(.read(4096, offset: 0, .client), now: 1) else {
            throw CancellationError()
        }
        return (queue, Int(first.userData >> 16))
    }

    /// Has an operation wait.
    private static func wait(
        in queue: inout DiskQueue, _ ioClass: IOClass, deadline: UInt64, number: UInt64
    ) throws {
        var request = IORequest.read(4096, offset: number, ioClass)
        request.userData = number << 1
        request.deadline = deadline
        guard case .wait = queue.submit(request, now: 2) else { throw CancellationError() }
    }

    @Test(
        "an operation that waited beyond its deadline is not started, and the next one is",
        arguments: IOClass.allCases)
    func expires(ioClass: IOClass) throws {
        var (queue, slot) = try Self.busyQueue()
        try Self.wait(in: &queue, ioClass, deadline: 100, number: 7)
        try Self.wait(in: &queue, ioClass, deadline: 100_000_001, number: 8)
        // Beyond the grace in which other classes leave a client room.
        let now: UInt64 = 100_000_000
        _ = queue.complete(slot: slot, now: 50)
        guard case .expire(let late)? = queue.next(now: now) else {
            Issue.record("the first is too late")
            return
        }
        #expect(late.request.userData == 14 && late.since == 2)
        #expect(queue.inFlight == 0 && queue.queued == 1)
        guard case .start(let next)? = queue.next(now: now) else {
            Issue.record("the second is in time")
            return
        }
        #expect(next.request.offset == 8)
        #expect(queue.inFlight == 1 && queue.queued == 0)
        // What is in flight is nobody's business, however late it ends.
        #expect(queue.expiry == nil && queue.expire(now: 1_000_000_000).isEmpty)
        let done = queue.complete(slot: Int(next.request.userData >> 16), now: 1_000_000_000)
        #expect(done.userData == 16)
    }

    @Test("what comes after its deadline is not begun, nor is a sync, which never waits")
    func comesTooLate() {
        for ioClass in IOClass.allCases {
            var request = IORequest.read(4096, offset: 0, ioClass)
            request.deadline = 10
            for operation in [request.operation, .synchronize(IOHandle(descriptor: -1))] {
                var queue = DiskQueue(settings: DiskSettings(), tag: 3)
                request.operation = operation
                guard case .expire = queue.submit(request, now: 10) else {
                    Issue.record("\(ioClass): must not begin")
                    return
                }
                guard case .start(let started) = queue.submit(request, now: 9) else {
                    Issue.record("\(ioClass): is in time")
                    return
                }
                _ = queue.complete(slot: Int(started.userData >> 16), now: 9)
                #expect(queue.inFlight == 0 && queue.queued == 0)
            }
        }
    }

    @Test("deadlines pass though nothing ends, and those without one wait on")
    func expiresUnasked() throws {
        var (queue, _) = try Self.busyQueue()
        let grain = DiskQueue.Limits.expiryGrain
        try Self.wait(in: &queue, .client, deadline: 0, number: 1)
        #expect(queue.expiry == nil)
        try Self.wait(in: &queue, .client, deadline: 5 * grain, number: 2)
        try Self.wait(in: &queue, .scrub, deadline: 3 * grain + 1, number: 3)
        try Self.wait(in: &queue, .client, deadline: 3 * grain, number: 4)
        #expect(queue.expiry == 4 * grain, "the first, and a grain for those that come with it")
        #expect(queue.expire(now: 3 * grain - 1).isEmpty)
        #expect(queue.expire(now: 4 * grain).map(\.request.offset) == [4, 3])
        #expect(queue.queued == 2 && queue.expiry == 6 * grain)
        #expect(queue.expire(now: 6 * grain).map(\.request.offset) == [2])
        #expect(queue.queued == 1 && queue.expiry == nil)
        #expect(queue.lanes[0].waiting.map(\.request.offset) == [1])
    }
}
