import Raft
import Simulator

/// What must hold of a simulated group, by what its members send, apply and find after crashes. It
/// remembers what a step may contradict, so that no two logs are compared.
struct GroupChecker {
    private struct Known {
        var term: Term
        var previousTerm: Term
        var digest: UInt64
    }

    /// What a member has promised, which a crash must not take.
    private struct Promises {
        var term: Term = 0
        /// Of `term`.
        var vote = PeerID.none
        /// The last entry that was acknowledged in `term`.
        var acknowledged: LogIndex = 0
    }

    /// Names a call.
    private struct Call: Hashable {
        var client: UInt16
        var sequence: UInt64
    }

    private var leaders: [Term: PeerID] = [:]
    private var known: [LogIndex: [Known]] = [:]
    private var promises: [PeerID: Promises] = [:]
    private var carriedOut: [Call: UInt64] = [:]
    /// Of each client, where its calls stand in the log.
    private var calls: [UInt16: [(sequence: UInt64, index: UInt64)]] = [:]
    private var commands: [UInt64: Call] = [:]
    private var settled: Set<Call> = []
    private var states: [UInt64: UInt64] = [:]
    private var members: [UInt64: ConfState] = [:]
    private var applied: [PeerID: UInt64] = [:]
    private(set) var elections = 0
    /// The first that was found wrong.
    private(set) var violation: Violation?

    private mutating func require(
        _ holds: Bool, _ property: Property, _ detail: @autoclosure () -> String
    ) {
        if !holds, violation == nil {
            violation = Violation(property: property, detail: detail())
        }
    }

    mutating func fail(_ property: Property, _ detail: String) {
        require(false, property, detail)
    }

    // MARK: Members

    /// A member as it is after a step.
    mutating func observe(_ peer: PeerID, _ role: Role, _ term: Term) {
        guard role == .leader else { return }
        if let other = leaders[term] {
            require(
                other == peer, .electionSafety,
                "members \(other) and \(peer) are both leaders of term \(term)")
        } else {
            leaders[term] = peer
            elections += 1
        }
    }

    /// A member begins again with what it found on its disk.
    mutating func began(_ peer: PeerID, term: Term, last: LogIndex) {
        requireKept("member \(peer) begins", promises[peer] ?? Promises(), term, last)
    }

    /// What a member has promised is not behind it: `who` begins again in `term`, with `last` as the
    /// last entry of its log.
    private mutating func requireKept(
        _ who: String, _ promised: Promises, _ term: Term, _ last: LogIndex
    ) {
        require(
            term >= promised.term, .hardState,
            "\(who) again in term \(term), and has promised something in term \(promised.term)")
        guard term == promised.term else { return }
        require(
            last >= promised.acknowledged, .durablePromise,
            "\(who) again with \(last) as its last entry, and has acknowledged "
                + "\(promised.acknowledged) in term \(term)")
    }

    /// What a member would find if its process ended now in the way that `how` says.
    ///
    /// - Parameters:
    ///   - tables: what its tables would have applied.
    ///   - snapshot: that of the snapshot before the log's first entry which has arrived and can be
    ///     read, if one has.
    mutating func wouldFind(
        _ peer: PeerID, _ how: String, _ found: FoundLog?, tables: UInt64, snapshot: LogIndex?
    ) {
        let promised = promises[peer] ?? Promises()
        guard let found else {
            require(
                promised.term == 0, .durablePromise,
                "member \(peer), \(how), would find no log, and has promised something in term "
                    + "\(promised.term)")
            return
        }
        let term = found.state.term
        requireKept("member \(peer), \(how), would begin", promised, term, found.last)
        if term == promised.term {
            require(
                promised.vote == .none || found.state.vote == promised.vote, .hardState,
                "member \(peer), \(how), would begin again with its vote for \(found.state.vote) in "
                    + "term \(term), and has given it to \(promised.vote)")
        }
        require(
            tables + 1 >= found.first || snapshot == found.first - 1, .recovery,
            "member \(peer), \(how), would find a log that begins with entry \(found.first), tables "
                + "as of \(tables), and no snapshot between that can be read")
        require(
            tables <= found.last, .recovery,
            "member \(peer), \(how), would find a log that ends with entry \(found.last), and "
                + "tables as of \(tables)")
    }

    /// The process of a member begins, with tables as of entry `index`.
    mutating func begins(_ peer: PeerID, at index: UInt64) { applied[peer] = index }

    // MARK: Messages

    /// A message leaves a member.
    mutating func sent(_ message: Message) {
        switch message.kind {
        case .append:
            // Who leads has given itself a vote that is durable.
            leads(message)
            learn(message)
        case .heartbeat: leads(message)
        case .voteResponse, .appendResponse:
            answered(message)
        default: break
        }
    }

    private mutating func leads(_ message: Message) {
        var promised = promises[message.from] ?? Promises()
        promise(message.term, &promised)
        if message.term == promised.term { promised.vote = message.from }
        promises[message.from] = promised
    }

    private mutating func answered(_ message: Message) {
        var promised = promises[message.from] ?? Promises()
        promise(message.term, &promised)
        defer { promises[message.from] = promised }
        guard !message.reject, message.term == promised.term else { return }
        switch message.kind {
        case .voteResponse:
            require(
                promised.vote == .none || promised.vote == message.to, .hardState,
                "member \(message.from) gave its vote in term \(message.term) to "
                    + "\(promised.vote) and to \(message.to)")
            promised.vote = message.to
        default: promised.acknowledged = max(promised.acknowledged, message.index)
        }
    }

    private func promise(_ term: Term, _ promised: inout Promises) {
        if term > promised.term { promised = Promises(term: term) }
    }

    /// Log matching: an entry of the same index and term is the same wherever it is, and follows
    /// one of the same term.
    private mutating func learn(_ message: Message) {
        var previous = message.logTerm
        for entry in message.entries {
            var digest = Digest()
            digest.add(UInt64(entry.kind.rawValue))
            digest.add(entry.data)
            let new = Known(term: entry.term, previousTerm: previous, digest: digest.value)
            if let other = known[entry.index]?.first(where: { $0.term == entry.term }) {
                require(
                    other.digest == new.digest && other.previousTerm == previous, .logMatching,
                    "entry \(entry.index) of term \(entry.term), as member \(message.from) sends "
                        + "it, is not what others sent")
            } else {
                known[entry.index, default: []].append(new)
            }
            previous = entry.term
        }
    }

    // MARK: Applying

    /// A member carries a call out, as entry `index`; perhaps once more after a crash.
    mutating func carriesOut(_ command: RegisterCommand, at index: UInt64, _ peer: PeerID) {
        let call = Call(client: command.client, sequence: command.sequence)
        if let other = commands[index] {
            require(
                other == call, .stateMachineSafety,
                "member \(peer) applies call \(call.sequence) of client \(call.client) as entry "
                    + "\(index), others call \(other.sequence) of client \(other.client)")
        } else {
            commands[index] = call
        }
        if let other = carriedOut[call] {
            require(
                other == index, .exactlyOnce,
                "call \(call.sequence) of client \(call.client) is carried out as entry \(other) "
                    + "and, by member \(peer), as entry \(index)")
        } else {
            carriedOut[call] = index
            inOrder(call, index, peer)
        }
        require(
            !settled.contains(call), .exactlyOnce,
            "call \(call.sequence) of client \(call.client) was settled, and member \(peer) "
                + "carries it out as entry \(index)")
    }

    /// A client makes a call when it is through with those before, and says so with it.
    private mutating func inOrder(_ call: Call, _ index: UInt64, _ peer: PeerID) {
        for other in calls[call.client] ?? [] {
            require(
                (other.sequence < call.sequence) == (other.index < index), .exactlyOnce,
                "call \(call.sequence) of client \(call.client) is carried out as entry \(index) "
                    + "by member \(peer), and call \(other.sequence) as entry \(other.index)")
        }
        calls[call.client, default: []].append((call.sequence, index))
    }

    /// A client was told that its call is not carried out, now or later.
    mutating func settles(client: UInt16, sequence: UInt64) {
        let call = Call(client: client, sequence: sequence)
        settled.insert(call)
        require(
            carriedOut[call] == nil, .exactlyOnce,
            "call \(sequence) of client \(client) is settled, but was carried out")
    }

    /// A client has an answer to a call, or is told that it had one before.
    mutating func answered(client: UInt16, sequence: UInt64) {
        let call = Call(client: client, sequence: sequence)
        require(
            carriedOut[call] != nil, .exactlyOnce,
            "call \(sequence) of client \(client) was answered, but not carried out anywhere")
    }

    /// The members in force on a member after entry `index`.
    mutating func configuration(_ state: ConfState, after index: UInt64, _ peer: PeerID) {
        let known = members[index] ?? state
        members[index] = known
        require(
            known == state, .sameConfiguration,
            "member \(peer) has the members \(state) after entry \(index), others had \(known)")
    }

    /// The tables of a member after entry `index`.
    mutating func state(_ digest: UInt64, after index: UInt64, _ peer: PeerID) {
        let last = applied[peer] ?? 0
        require(
            index >= last, .stateMachineSafety,
            "member \(peer) applies entry \(index) after \(last)")
        applied[peer] = index
        if let other = states[index] {
            require(
                other == digest, .stateMachineSafety,
                "member \(peer) has other tables than others had after entry \(index)")
        } else {
            states[index] = digest
        }
    }
}
