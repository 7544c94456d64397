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

    private struct State {
        /// `HOST:PORT` each.
        var addresses: [String]
        /// Which of them is asked first.
        var preferred = 0
        var channels: [String: RPCChannel] = [:]
        /// Calls that are not answered, and how many have been.
        var outstanding = 0
        var answered: UInt64 = 0
        var isWatching = false
        /// Of the answer by which the addresses were learned.
        var term: UInt64 = 0
        var isLearning = false
        var lanes: CallLanes
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
        for address in addresses { _ = try HostPort(address) }
        var generator = generator
        state = Mutex(State(addresses: addresses, lanes: CallLanes(&generator)))
        pool = channels
        self.reactor = reactor
    }

    /// Where the leader was seen last.
    public var address: String {
        state.withLock { $0.addresses[$0.preferred] }
    }

    /// Calls `method` on the leader and waits for the answer; see `RPCChannel.call`.
    ///
    /// - Parameter repetition: whether the call may be made again after a loss that leaves open
    ///   whether it was carried out.
    /// - Throws: what the handler threw; `connection` or `notLeader` if no member that leads could be
    ///   reached in time.
    public func call(
        _ method: UInt16, _ message: [UInt8], timeout: Duration? = nil,
        context: IOContext = .client, repetition: Repetition = .unsafe
    ) async throws(StoreError) -> RPCReply {
        var request = RPCRequest(method: method, message: message)
        request.context = context
        guard repetition == .identified else {
            return try await attempt(&request, timeout ?? Limits.timeout, repetition)
        }
        let lane = state.withLock { $0.lanes.take(limit: Limits.lanes) }
        guard let lane else {
            throw StoreError(
                .overloaded, "\(Limits.lanes) changes are under way: try again later")
        }
        defer { state.withLock { $0.lanes.giveBack(lane) } }
        request.identity = RPCRequest.Identity(lane.next(), lane)
        return try await attempt(&request, timeout ?? Limits.timeout, repetition)
    }

    private func attempt(
        _ request: inout RPCRequest, _ limit: Duration, _ repetition: Repetition
    ) async throws(StoreError) -> RPCReply {
        let start = reactor.now()
        var (tried, channel) = begin()
        defer { end() }
        var failure: StoreError
        // Nearly always.
        do throws(StoreError) {
            return try await channel.perform(request, timeout: limit)
        } catch {
            failure = error
        }
        var deadline = start.advanced(by: limit)
        if let until = request.context.deadline { deadline = min(deadline, until) }
        var pause = Limits.firstPause
        var attempts = 1
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
            (tried, channel) = target()
            attempts += 1
            do throws(StoreError) {
                return try await channel.perform(request, timeout: left)
            } catch {
                failure = error
            }
        }
        throw failure
    }

    /// Whether a failure is the member's that was asked, so that another may do better.
    private static func isOfMember(_ failure: StoreError) -> Bool {
        failure.code == .notLeader || failure.code == .connection
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

    private func begin() -> (String, RPCChannel) {
        let (target, startsWatch) = state.withLock { state in
            state.outstanding += 1
            defer { state.isWatching = true }
            return (self.target(&state), !state.isWatching)
        }
        if startsWatch { Task(executorPreference: reactor) { await self.watch() } }
        return target
    }

    private func end() {
        state.withLock { state in
            state.outstanding -= 1
            state.answered &+= 1
        }
    }

    private func target() -> (String, RPCChannel) { state.withLock { target(&$0) } }

    private func target(_ state: inout State) -> (String, RPCChannel) {
        let address = state.addresses[state.preferred]
        return (address, channel(address, &state))
    }

    private func channel(_ address: String, _ state: inout State) -> RPCChannel {
        if let channel = state.channels[address] { return channel }
        guard let place = try? HostPort(address) else {
            preconditionFailure("addresses are looked at before they are taken")
        }
        let channel = pool.channel(host: place.host, port: place.port, on: reactor)
        state.channels[address] = channel
        return channel
    }

    /// Another member is asked next than `tried`: the one that it named, or the next in turn.
    /// Returns how many members there are.
    private func moveOn(from tried: String, to hint: String?) -> Int {
        let (count, learns) = state.withLock { state in
            // Somebody else may have moved on already.
            if state.addresses[state.preferred] == tried {
                if let hint, hint != tried, (try? HostPort(hint)) != nil {
                    prefer(hint, &state)
                } else {
                    state.preferred = (state.preferred + 1) % state.addresses.count
                }
            }
            defer { state.isLearning = true }
            return (state.addresses.count, !state.isLearning)
        }
        if learns { Task(executorPreference: reactor) { await self.learn() } }
        return count
    }

    private func prefer(_ address: String, _ state: inout State) {
        if let place = state.addresses.firstIndex(of: address) {
            state.preferred = place
        } else if state.addresses.count < Limits.members {
            state.addresses.append(address)
            state.preferred = state.addresses.count - 1
        }
    }

    // MARK: Looking for the leader

    /// Looks after calls that nobody answers: a member that hangs keeps its connections.
    private func watch() async {
        var idle = 0
        var stands = 0
        var last: UInt64 = 0
        while true {
            // Nobody cancels this task.
            try? await reactor.sleep(for: Limits.patience / 2)
            let (outstanding, answered) = state.withLock { ($0.outstanding, $0.answered) }
            idle = outstanding == 0 ? idle + 1 : 0
            stands = outstanding > 0 && answered == last ? stands + 1 : 0
            last = answered
            if stands >= 2 { await lookForLeader() }
            let isOver = state.withLock { state in
                guard idle >= Limits.idleLooks, state.outstanding == 0 else { return false }
                state.isWatching = false
                return true
            }
            if isOver { return }
        }
    }

    /// Asks the members that are not asked now who leads; if it is another one, the calls that wait
    /// go there.
    private func lookForLeader() async {
        let (tried, channel) = target()
        let views = await askMembers(but: tried)
        guard let view = views.max(by: { $0.term < $1.term }) else { return }
        take(view)
        guard let leader = view.leaderAddress, leader != tried else { return }
        state.withLock { state in
            if state.addresses[state.preferred] == tried { prefer(leader, &state) }
        }
        // Ends the calls that wait for it; those that may be made again are.
        await channel.close()
    }

    /// Learns where the members are by now, a moment after one was not where it was thought to be.
    private func learn() async {
        try? await reactor.sleep(for: Limits.patience)
        for view in await askMembers(but: nil) { take(view) }
        state.withLock { $0.isLearning = false }
    }

    private func askMembers(but passed: String?) async -> [GroupStatusResponse] {
        let asked = state.withLock { state in
            state.addresses.filter { $0 != passed }.map { channel($0, &state) }
        }
        return await withTaskGroup(of: GroupStatusResponse?.self) { group in
            for channel in asked {
                group.addTask {
                    let reply = try? await channel.call(
                        RaftMethod.status.rawValue, GroupStatusRequest().encoded,
                        timeout: Limits.questionTimeout)
                    return reply.flatMap { try? GroupStatusResponse(parsing: $0.message) }
                }
            }
            return await group.reduce(into: []) { views, view in
                if let view { views.append(view) }
            }
        }
    }

    /// Takes the addresses of an answer, unless one of a later term was taken.
    private func take(_ view: GroupStatusResponse) {
        let found = view.members.map(\.address).filter { (try? HostPort($0)) != nil }
        guard !found.isEmpty, found.count <= Limits.members else { return }
        state.withLock { state in
            guard view.term >= state.term else { return }
            state.term = view.term
            let preferred = state.addresses[state.preferred]
            guard Set(found) != Set(state.addresses) else { return }
            state.addresses = found.contains(preferred) ? found : found + [preferred]
            state.preferred = state.addresses.firstIndex(of: preferred) ?? 0
            state.channels = state.channels.filter { state.addresses.contains($0.key) }
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
}
