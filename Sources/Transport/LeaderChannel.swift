import Model
import Reactor
import Synchronization
import Wire

/// Calls to the member that leads a group, whichever that is.
///
/// A call goes to the member that answered last. Where that does not lead, is gone or says nothing,
/// others are asked, until one has carried the call out or its time is over; so a change of
/// leaders costs callers time and nothing else. No member is preferred for ever.
///
/// Thread-safe; its lock is held for a few instructions.
public final class LeaderChannel: Sendable {
    public enum Limits {
        /// Between attempts where no member leads, at first and at most.
        static let firstPause = Duration.milliseconds(10)
        static let longestPause = Duration.milliseconds(200)
        /// A member that has not answered for so long may hang: others are asked who leads.
        static let patience = Duration.milliseconds(500)
        /// How long a member may take to say who leads.
        static let questionTimeout = Duration.milliseconds(500)
        /// What a call without a limit of its own may take.
        static let timeout = Duration.seconds(30)
        /// Looks without a call after which no more are taken until there is one.
        static let idleLooks = 40
        /// Members remembered.
        static let members = 64
        /// A member that failed or hung is asked nothing that others can answer for so long.
        static let shunning = Duration.seconds(5)
        /// Calls with an identity at once.
        static let lanes = 16_384
    }

    /// What may be done with a call of which it is not known whether it was carried out.
    public enum Repetition: Sendable {
        /// It changes nothing, or changes nothing twice.
        case harmless
        /// It is a change, and bears an identity by which it is carried out once: a repeat gets the
        /// first answer. To a program that does not know of identities as `unsafe`.
        case identified
        /// It fails with `connection`.
        case unsafe
    }

    /// Who answers a question. Either way the answer is linearizable: it has every change that was
    /// answered, to anybody, before the question was asked.
    public enum ReadPlace: String, Sendable, CaseIterable {
        /// The member that leads.
        case leader
        /// The members in turn: one that does not lead asks the leader how far it must have applied
        /// (the read index of Raft's thesis, 6.4). Where one cannot answer, the leader does.
        case members
    }

    /// A member as it is asked.
    private final class Member: Sendable {
        let address: String
        let channel: RPCChannel
        /// Calls that are not answered, and how many have been.
        let outstanding = Atomic<Int>(0)
        let answered = Atomic<UInt64>(0)
        /// Nanoseconds of the clock until which it is asked nothing that others may answer; 0: it
        /// answered the last.
        let shunnedUntil = Atomic<UInt64>(0)

        init(_ address: String, _ channel: RPCChannel) {
            self.address = address
            self.channel = channel
        }

        /// It could not answer what any can: it is left alone for a while.
        func shun(from now: MonotonicTime) {
            shunnedUntil.store(
                now.advanced(by: Limits.shunning).nanoseconds, ordering: .relaxed)
        }
    }

    private struct State {
        /// Never none.
        var members: [Member]
        /// Which of them is asked first.
        var preferred = 0
        /// Which was asked last of what any may answer.
        var turn = 0
        var isWatching = false
        /// Of the answer by which the members were learned.
        var term: UInt64 = 0
        /// The group that they are of, once one has said it.
        var group: Identity128?
        var isLearning = false
        var lanes: CallLanes

        var target: Member { members[preferred] }

        /// Whose turn it is of those that answer. One that did not is tried again with one question
        /// at a time.
        mutating func next(at now: MonotonicTime) -> Member {
            for _ in members.indices {
                turn = (turn + 1) % members.count
                let member = members[turn]
                let until = member.shunnedUntil.load(ordering: .relaxed)
                guard until <= now.nanoseconds else { continue }
                if until > 0 { member.shun(from: now) }
                return member
            }
            return target
        }
    }

    private let state: Mutex<State>
    private let pool: ChannelPool
    private let reactor: Reactor

    /// - Parameters:
    ///   - addresses: `HOST:PORT` of the members that are known at first; others are learned.
    ///   - generator: where the identities of its calls come from.
    /// - Throws: `invalidArgument` with an address that is none.
    public init(
        _ addresses: [String], channels: ChannelPool, on reactor: Reactor,
        generator: some RandomNumberGenerator = SystemRandomNumberGenerator()
    ) throws(StoreError) {
        guard !addresses.isEmpty else {
            throw StoreError(.invalidArgument, "a group has at least one address")
        }
        pool = channels
        self.reactor = reactor
        var members: [Member] = []
        for address in addresses {
            members.append(Self.member(try HostPort(address), channels, reactor))
        }
        var generator = generator
        state = Mutex(State(members: members, lanes: CallLanes(&generator)))
    }

    private static func member(
        _ place: HostPort, _ pool: ChannelPool, _ reactor: Reactor
    ) -> Member {
        Member(
            place.description, pool.channel(host: place.host, port: place.port, on: reactor))
    }

    /// Where the leader was seen last.
    public var address: String {
        state.withLock { $0.target.address }
    }

    /// Calls `method` on the leader and waits for the answer; see `RPCChannel.call`.
    ///
    /// - Parameters:
    ///   - repetition: whether the call may be made again after a loss that leaves open whether it
    ///     was carried out.
    ///   - place: who is to answer; of anything but a question, the leader.
    /// - Throws: what the handler threw; `connection` or `notLeader` if no member that leads could be
    ///   reached in time.
    public func call(
        _ method: UInt16, _ message: [UInt8], timeout: Duration? = nil,
        context: IOContext = .client, repetition: Repetition = .unsafe,
        at place: ReadPlace = .leader
    ) async throws(StoreError) -> RPCReply {
        var request = RPCRequest(method: method, message: message)
        request.context = context
        request.isForAnyMember = place == .members && repetition == .harmless
        let now = request.isForAnyMember ? reactor.now() : nil
        let (member, lane, startsWatch) = state.withLock { state in
            defer { state.isWatching = true }
            let lane = repetition == .identified ? state.lanes.take(limit: Limits.lanes) : nil
            let member = now.map { state.next(at: $0) } ?? state.target
            return (member, lane, !state.isWatching)
        }
        if startsWatch { Task(executorPreference: reactor) { await self.watch() } }
        guard repetition == .identified else {
            return try await attempt(&request, at: member, timeout ?? Limits.timeout, repetition)
        }
        guard let lane else {
            throw StoreError(
                .overloaded, "\(Limits.lanes) changes are under way: try again later")
        }
        defer { state.withLock { $0.lanes.giveBack(lane) } }
        request.identity = RPCRequest.Identity(lane.next(), lane)
        return try await attempt(&request, at: member, timeout ?? Limits.timeout, repetition)
    }

    private func attempt(
        _ request: inout RPCRequest, at first: Member, _ limit: Duration, _ repetition: Repetition
    ) async throws(StoreError) -> RPCReply {
        let start = reactor.now()
        var tried = first
        var failure: StoreError
        // Nearly always.
        do throws(StoreError) {
            let reply = try await Self.ask(tried, request, limit)
            if request.isForAnyMember { tried.shunnedUntil.store(0, ordering: .relaxed) }
            return reply
        } catch {
            failure = error
            if request.isForAnyMember, Self.isAnswer(failure) {
                tried.shunnedUntil.store(0, ordering: .relaxed)
            }
        }
        var deadline = start.advanced(by: limit)
        if let until = request.context.deadline { deadline = min(deadline, until) }
        var pause = Limits.firstPause
        var attempts = 1
        if request.isForAnyMember, Self.isOfMember(failure) {
            // From here on as any other call, of whoever leads.
            tried.shun(from: reactor.now())
            request.isForAnyMember = false
        }
        while Self.isOfMember(failure) {
            let members = moveOn(from: tried, to: failure.leader)
            guard goesOn(after: failure, repetition, &request) else { break }
            // All were asked, or one says that another leads which does not.
            if attempts > members {
                attempts = 0
                do throws(CancellationError) { try await reactor.sleep(for: pause) } catch {
                    throw StoreError(.cancelled, "the call was cancelled")
                }
                pause = min(pause * 2, Limits.longestPause)
            }
            let left = reactor.now().duration(to: deadline)
            guard left > .zero else { break }
            tried = state.withLock { $0.target }
            attempts += 1
            do throws(StoreError) {
                return try await Self.ask(tried, request, left)
            } catch {
                failure = error
            }
        }
        throw failure
    }

    private static func ask(
        _ member: Member, _ request: RPCRequest, _ limit: Duration
    ) async throws(StoreError) -> RPCReply {
        member.outstanding.wrappingAdd(1, ordering: .relaxed)
        defer {
            member.outstanding.wrappingSubtract(1, ordering: .relaxed)
            member.answered.wrappingAdd(1, ordering: .relaxed)
        }
        return try await member.channel.perform(request, timeout: limit)
    }

    /// Whether a failure is the member's that was asked, so that another may do better.
    private static func isOfMember(_ failure: StoreError) -> Bool {
        failure.code == .notLeader || failure.code == .connection
    }

    /// Whether the member that was asked has said so itself.
    private static func isAnswer(_ failure: StoreError) -> Bool {
        !isOfMember(failure) && failure.code != .deadlineExceeded && failure.code != .cancelled
    }

    /// Whether the call is made again. `request` says from then on that it may have been made.
    private func goesOn(
        after failure: StoreError, _ repetition: Repetition, _ request: inout RPCRequest
    ) -> Bool {
        switch failure.code {
        case .notLeader: return true
        case .connection:
            if let identity = request.identity {
                var call = identity.call
                call.isRepeat = true
                request.identity = RPCRequest.Identity(call, identity.lane)
            }
            switch repetition {
            case .harmless: return true
            case .identified: return request.identity?.lane?.mayRepeat == true
            case .unsafe: return false
            }
        default: return false
        }
    }

    // MARK: Who is asked

    /// Another member is asked next than `tried`: the one that it named, or the next in turn.
    /// Returns how many members there are.
    private func moveOn(from tried: Member, to hint: String?) -> Int {
        let (count, learns) = state.withLock { state in
            // Somebody else may have moved on already.
            if state.target === tried {
                if let hint, hint != tried.address, let place = try? HostPort(hint) {
                    prefer(place, &state)
                } else {
                    state.preferred = (state.preferred + 1) % state.members.count
                }
            }
            defer { state.isLearning = true }
            return (state.members.count, !state.isLearning)
        }
        if learns { Task(executorPreference: reactor) { await self.learn() } }
        return count
    }

    private func prefer(_ place: HostPort, _ state: inout State) {
        if let known = state.members.firstIndex(where: { $0.address == place.description }) {
            state.preferred = known
        } else if state.members.count < Limits.members {
            state.members.append(Self.member(place, pool, reactor))
            state.preferred = state.members.count - 1
        }
    }

    // MARK: Looking for the leader

    /// Looks after calls that nobody answers: a member that hangs keeps its connections.
    private func watch() async {
        var idle = 0
        var stands: [ObjectIdentifier: (answered: UInt64, looks: Int)] = [:]
        while true {
            // Nobody cancels this task.
            try? await reactor.sleep(for: Limits.patience / 2)
            let (members, target) = state.withLock { ($0.members, $0.target) }
            var isBusy = false
            var standing: [Member] = []
            for member in members {
                let id = ObjectIdentifier(member)
                let answered = member.answered.load(ordering: .relaxed)
                guard member.outstanding.load(ordering: .relaxed) > 0 else {
                    stands[id] = nil
                    continue
                }
                isBusy = true
                let before = stands[id]
                let looks = before?.answered == answered ? (before?.looks ?? 0) + 1 : 0
                stands[id] = (answered, looks)
                if looks >= 2 { standing.append(member) }
            }
            for member in standing {
                // Others are answered elsewhere by now: so may these be.
                if member !== target { await member.channel.close() }
            }
            if standing.contains(where: { $0 === target }) { await lookForLeader(but: target) }
            idle = isBusy ? 0 : idle + 1
            let isOver = state.withLock { state in
                guard idle >= Limits.idleLooks,
                    state.members.allSatisfy({ $0.outstanding.load(ordering: .relaxed) == 0 })
                else { return false }
                state.isWatching = false
                return true
            }
            if isOver { return }
        }
    }

    /// Asks the members that are not asked now who leads; if it is another one, the calls that wait
    /// go there.
    private func lookForLeader(but tried: Member) async {
        guard let view = await askMembers(but: tried).last else { return }
        take(view)
        guard let leader = view.leaderAddress, leader != tried.address,
            let place = try? HostPort(leader)
        else { return }
        state.withLock { state in
            if state.target === tried { prefer(place, &state) }
        }
        // Ends the calls that wait for it; those that may be made again are.
        await tried.channel.close()
    }

    /// Learns where the members are by now, a moment after one was not where it was thought to be.
    private func learn() async {
        try? await reactor.sleep(for: Limits.patience)
        for view in await askMembers(but: nil) { take(view) }
        state.withLock { $0.isLearning = false }
    }

    /// What the members say that answer, those that know most last.
    private func askMembers(but passed: Member?) async -> [GroupStatusResponse] {
        let asked = state.withLock { $0.members }.filter { $0 !== passed }
        let views = await withTaskGroup(of: GroupStatusResponse?.self) { group in
            for member in asked {
                group.addTask {
                    let reply = try? await member.channel.call(
                        RaftMethod.status.rawValue, GroupStatusRequest().encoded,
                        timeout: Limits.questionTimeout)
                    return reply.flatMap { try? GroupStatusResponse(parsing: $0.message) }
                }
            }
            return await group.reduce(into: [GroupStatusResponse]()) { views, view in
                if let view { views.append(view) }
            }
        }
        return views.sorted { $0.knowledge < $1.knowledge }
    }

    /// Takes the addresses of an answer, unless one of a later term was taken, or it is of another
    /// group.
    private func take(_ view: GroupStatusResponse) {
        let places = view.members.compactMap { try? HostPort($0.address) }
        guard !places.isEmpty, places.count <= Limits.members else { return }
        state.withLock { state in
            let group = Identity128(view.group)
            // One that was made in the place of the group that was known is as good.
            let isKnown =
                state.group == nil || state.group == group
                || view.formerGroups.contains { Identity128($0) == state.group }
            guard view.term >= state.term, isKnown else { return }
            state.group = group
            state.term = view.term
            let target = state.target
            let known = state.members
            var members = places.map { place in
                known.first { $0.address == place.description }
                    ?? Self.member(place, pool, reactor)
            }
            if !members.contains(where: { $0 === target }) { members.append(target) }
            state.members = members
            state.preferred = members.firstIndex { $0 === target } ?? 0
        }
    }
}

extension GroupStatusResponse {
    /// Where the member is that leads, as far as whoever answers knows.
    public var leaderAddress: String? {
        guard leader != 0 else { return nil }
        let address = members.first { $0.peer == leader }?.address ?? ""
        return address.isEmpty ? nil : address
    }

    /// The more, the newer what it says: by term, then whether it leads, then what it has applied.
    public var knowledge: (UInt64, Int, UInt64) { (term, peer == leader ? 1 : 0, appliedIndex) }
}
