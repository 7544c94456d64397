import Model
import Reactor
import Wire

/// What a datanode knows of the SCMs that it reports to: where they are, and which leads.
///
/// **Terms.** Commands are taken from a leader of the latest term that was heard of, and from no
/// other: what an earlier one orders may have been decided from a state that is over. The term is
/// in memory alone, and begins at 0 with each start. That is safe, because a datanode that has not
/// heard of a later leader yet takes the orders of an earlier one in any case, also without a
/// restart between: so each order is harmless when it comes late. A container is closed that takes
/// blocks elsewhere; blocks are deleted that the log, which all leaders share, says are to be; a
/// replica is removed if it is closed and holds nothing. A replica that is rebuilt by an order that
/// came late counts for nothing, and its token says so to who has it removed; one that is removed late
/// had its place taken by another while all were whole, so that it is rebuilt and nothing is lost. An
/// order for which that does not hold needs its term kept on disk. Terms of members that do not lead are not counted: one that is cut
/// off may be ahead of them all.
///
/// **Outcomes.** What was carried out is told to the one that leads, and counts as told if its
/// answer says that it led. One that leads from then on tells everything anew that is not logged as
/// done, and what is done twice is no error: so nothing is lost between an order and its report.
///
/// Pure; not thread-safe.
struct SCMGroup {
    enum Limits {
        /// SCMs reported to.
        static let members = 16
        /// Without a leader for so long, other members are believed to know of further ones.
        static let leaderless = Duration.seconds(10)
    }

    /// What an answer says of the SCM that gave it.
    struct View: Hashable {
        var term: UInt64
        var leading: SCMLeading
        /// `HOST:PORT`; none: not told.
        var scms: [String]
    }

    /// `HOST:PORT` of those that are reported to, never none.
    private(set) var addresses: [String]
    /// Of the latest leader that was heard of; 0: none that says so.
    private(set) var term: UInt64 = 0
    /// Where it was.
    private(set) var leader: String?
    private var leaderHeard: MonotonicTime

    init(_ addresses: [String], at now: MonotonicTime) {
        precondition(!addresses.isEmpty, "a datanode reports to an SCM")
        self.addresses = addresses
        leaderHeard = now
    }

    /// Takes an answer of the SCM at `address`. Returns whether it leads as far as anybody knows:
    /// then its commands are carried out, and it has taken the outcomes it was told.
    mutating func take(_ view: View, from address: String, at now: MonotonicTime) -> Bool {
        switch view.leading {
        case .leads:
            // A later one was heard of: an earlier one does not know yet. Unless there has been
            // none for long: then the group was put back from a copy, and counts anew.
            guard view.term >= term || leaderHeard.duration(to: now) > Limits.leaderless else {
                if leader == address { leader = nil }
                return false
            }
            term = view.term
        // From before there were several; there is no way back to it from one that says its term.
        case .notSaid, .UNRECOGNIZED: guard term == 0 else { return false }
        case .follows:
            if leader == address { leader = nil }
            // It may be behind: it adds members, and only while there is nobody to ask who knows.
            if leaderHeard.duration(to: now) > Limits.leaderless {
                adopt(addresses + view.scms.filter { !addresses.contains($0) }, from: address)
            }
            return false
        }
        leader = address
        leaderHeard = now
        adopt(view.scms, from: address)
        return true
    }

    /// Whether another SCM than that at `address` leads, as far as is known.
    func isLed(byAnotherThan address: String) -> Bool { leader.map { $0 != address } ?? false }

    /// The SCM at `address` did not answer: if it led, nobody knows whether it still does.
    mutating func miss(_ address: String) {
        if leader == address { leader = nil }
    }

    /// Goes by the addresses `found`, if there are some, and by that of who has just answered: it
    /// may be called by another name there.
    private mutating func adopt(_ found: [String], from address: String) {
        guard found != addresses else { return }
        var known: Set<String> = []
        var usable = found.filter { (try? HostPort($0)) != nil && known.insert($0).inserted }
        guard !usable.isEmpty else { return }
        if known.insert(address).inserted { usable.insert(address, at: 0) }
        addresses = Array(usable.prefix(Limits.members))
    }
}

/// How long an SCM that does not answer is left alone: longer while another one leads, but not for
/// long, since it may lead soon after it is back, and then has to know the datanodes.
struct SCMRetry {
    enum Limits {
        static let shortest = Duration.milliseconds(500)
        static let longest = Duration.seconds(1)
    }

    private var next = Limits.shortest

    /// It has failed: how long it is left alone.
    mutating func pause(isLedByAnother: Bool) -> Duration {
        guard isLedByAnother else {
            next = Limits.shortest
            return next
        }
        defer { next = min(next * 2, Limits.longest) }
        return next
    }

    /// It has answered.
    mutating func succeed() { next = Limits.shortest }
}

extension SCMRegisterResponse {
    var view: SCMGroup.View { SCMGroup.View(term: term, leading: leading, scms: scms) }
}

extension SCMHeartbeatResponse {
    var view: SCMGroup.View { SCMGroup.View(term: term, leading: leading, scms: scms) }
}
