import Client
import Foundation
import Model
import Reactor
import Transport
import Wire

/// How a group of OMs or SCMs is, by what each of its members says.
struct GroupHealth {
    /// A member, and what came of asking it.
    struct View {
        var name: String
        var address: String
        var answer: Result<GroupStatusResponse, StoreError>
    }

    enum Limits {
        /// A follower that is this many entries behind the leader lags.
        static let lag: UInt64 = 10_000
    }

    var role: ClusterRole
    /// One a member that answers, under whichever of its addresses.
    var views: [View]

    init(role: ClusterRole, views: [View]) {
        self.role = role
        // The settings may call a host by another name than the members do.
        var seen: Set<GroupStatusResponse.Member> = []
        self.views = views.filter { view in
            (try? view.answer.get()).map { seen.insert($0.member).inserted } ?? true
        }
    }

    /// Asks all members that the settings name, and those that one of these names besides.
    static func ask(
        _ role: ClusterRole, _ settings: Settings, _ runtime: Runtime
    ) async throws -> GroupHealth {
        let members = try settings.members(of: role.group)
        let client = try GroupClient(
            settings.addresses(of: role.group), channels: runtime.channels,
            on: runtime.reactors.next())
        let answers = await client.askAll()
        var names: [String: String] = [:]
        for member in answers.compactMap({ try? $0.view.get() }).flatMap(\.members) {
            names[member.address] = member.name
        }
        for member in members { names[member.place.description] = member.name }
        let views = answers.map { answer in
            View(
                name: names[answer.address] ?? answer.address, address: answer.address,
                answer: answer.view)
        }
        return GroupHealth(role: role, views: views.sorted { $0.name < $1.name })
    }

    // MARK: What is said of it

    /// What the members that answered agree on, by the latest term.
    private var newest: GroupStatusResponse? {
        let answers = views.compactMap { try? $0.answer.get() }
        return answers.max { $0.knowledge < $1.knowledge }
    }

    private var title: String { role.rawValue.uppercased() }

    /// What members of the newest group say of themselves, by number.
    private var own: [UInt64: GroupStatusResponse] {
        guard let newest else { return [:] }
        // Some may not say of which cluster they are: the group's name is unique.
        let answers = views.compactMap { try? $0.answer.get() }.filter {
            $0.group == newest.group
        }
        return Dictionary(answers.map { ($0.peer, $0) }) { first, _ in first }
    }

    /// How a member is, as far as it takes part.
    private enum Presence {
        case takesPart, hasStopped
        /// It answers as a member of another group, or as one that was taken out.
        case takesNoPart
        case isSilent
    }

    private func presence(of member: GroupMember) -> Presence {
        if let answer = own[member.peer] {
            return answer.disk == .failed ? .hasStopped : .takesPart
        }
        let answers = views.contains { $0.name == member.name && (try? $0.answer.get()) != nil }
        return answers ? .takesNoPart : .isSilent
    }

    /// A group of one is summed up by whether its role answers.
    private var isOfOne: Bool { views.count == 1 && (newest?.members.count ?? 1) <= 1 }

    /// `OM: om2 leads, om1 om3 follow`; nil for a group of one.
    var summary: String? {
        guard !isOfOne else { return nil }
        guard let newest else { return "\(title): no member answers" }
        let members = newest.members.sorted { $0.name < $1.name }
        /// `om2 om3 follow`, `om2 follows`; nil if there are none.
        func text(
            _ one: String, _ several: String, _ isIncluded: (GroupMember) -> Bool
        ) -> String? {
            let names = members.filter(isIncluded).map(\.name)
            guard !names.isEmpty else { return nil }
            return names.joined(separator: " ") + " " + (names.count == 1 ? one : several)
        }
        func takesPart(_ member: GroupMember, isLearner: Bool) -> Bool {
            presence(of: member) == .takesPart && member.peer != newest.leader
                && (member.role == .learner) == isLearner
        }
        let parts = [
            text("leads", "lead") { $0.peer == newest.leader } ?? "no leader",
            text("follows", "follow") { takesPart($0, isLearner: false) },
            text("learns", "learn") { takesPart($0, isLearner: true) },
            text("has stopped", "have stopped") {
                presence(of: $0) == .hasStopped && $0.peer != newest.leader
            },
            text("takes no part", "take no part") {
                presence(of: $0) == .takesNoPart
            },
            text("does not answer", "do not answer") { presence(of: $0) == .isSilent },
        ]
        return "\(title): " + parts.compactMap(\.self).joined(separator: ", ")
    }

    /// What is not as it should be.
    var findings: [StatusPage.Finding] {
        guard !isOfOne else { return disks }
        guard let newest else {
            return [
                finding(
                    .outage, "\(title): none of its \(views.count) members answers",
                    "start them (systemctl start apus-\(role.rawValue) on each host); their logs say "
                        + "why they ended")
            ]
        }
        let voters = newest.members.filter { $0.role != .learner }
        let alive = voters.count { presence(of: $0) == .takesPart }
        let needed = voters.count / 2 + 1
        var found: [StatusPage.Finding] = []
        if alive < needed {
            found.append(
                finding(
                    .outage,
                    "\(title): \(alive) of \(voters.count) members are there, and \(needed) must be",
                    "start those that do not answer or have stopped: until then nothing can be "
                        + "changed"))
        } else if !voters.contains(where: { $0.peer == newest.leader }) {
            found.append(
                finding(
                    .outage, "\(title): no member leads",
                    "wait a second for the election; if none comes, see whether the members reach "
                        + "each other: apus init check"))
        }
        return found + silences(newest, spare: alive - needed) + strangers(newest) + disks
            + progress(newest)
    }

    /// Addresses at which no member answers.
    /// - Parameter spare: how many more may be lost before there is no majority.
    private func silences(
        _ newest: GroupStatusResponse, spare: Int
    ) -> [StatusPage.Finding] {
        var told: Set<String> = []
        return views.filter { (try? $0.answer.get()) == nil }.compactMap { view in
            guard let member = newest.members.first(where: { $0.name == view.name }) else {
                return nil
            }
            switch presence(of: member) {
            // What answers under its name is told by itself.
            case .takesNoPart: return nil
            // Once, however many addresses it has.
            case .isSilent: guard told.insert(member.name).inserted else { return nil }
            case .takesPart, .hasStopped:
                let other = views.first {
                    (try? $0.answer.get()).map {
                        $0.group == newest.group && $0.peer == member.peer
                    } ?? false
                }
                return finding(
                    .danger,
                    "\(view.name) does not answer at \(view.address), but at "
                        + "\(other?.address ?? member.address)",
                    "have \(role.rawValue).addresses of the settings name the place where it is")
            }
            let host = (try? HostPort(view.address))?.host ?? view.address
            let next =
                spare < 0
                ? ""
                : spare == 0
                    ? "; the group can lose no further member" : "; it can lose \(spare) more"
            return finding(
                spare < 0 ? .outage : .danger,
                "\(view.name) (\(view.address)) does not answer\(next)",
                "start it: systemctl start apus-\(role.rawValue) on \(host); if its machine is "
                    + "gone for good: apus admin \(role.rawValue) remove \(view.name), then add another"
            )
        }
    }

    /// Members whose disk does not take what it is given, or not for long any more.
    private var disks: [StatusPage.Finding] {
        let voters = newest?.members.filter { $0.role != .learner } ?? []
        let writing = voters.count { voter in
            guard let disk = own[voter.peer]?.disk else { return false }
            return [.well, .nearlyFull].contains(disk)
        }
        // What the majority cannot write, or one alone, nobody can.
        let isOutage = isOfOne || writing < voters.count / 2 + 1
        return views.compactMap { view in
            guard let answer = try? view.answer.get(), answer.group == newest?.group else {
                return nil
            }
            let name = "\(view.name) (\(view.address))"
            let reason = answer.diskReason
            let isVoter = isOfOne || voters.contains { $0.peer == answer.peer }
            let severity: StatusPage.Finding.Severity = isOutage && isVoter ? .outage : .danger
            let host = (try? HostPort(view.address))?.host ?? view.address
            switch answer.disk {
            case .well, .UNRECOGNIZED: return nil
            case .nearlyFull:
                return finding(
                    .danger, "\(name): its disk is nearly full: \(reason)",
                    "make room on it, or give it a larger one, before nothing can be written")
            case .full:
                return finding(
                    severity, "\(name): its disk is full: \(reason)",
                    "make room on it: it goes on by itself then")
            case .hangs:
                return finding(
                    severity, "\(name): its disk hangs: \(reason)",
                    "look at the disk (dmesg, iostat -x on \(host)); if it does not go on, stop the "
                        + "machine, replace the disk and have the member added anew")
            case .short:
                return finding(
                    severity, "\(name): descriptors or memory are wanting: \(reason)",
                    "see its limits (LimitNOFILE of its unit) and what else runs on \(host)")
            case .failed:
                return finding(
                    severity, "\(name) has stopped: \(reason)",
                    "once its cause is gone start it again: systemctl restart "
                        + "apus-\(role.rawValue) on \(host); its log has more")
            }
        }
    }

    /// Members of another cluster or group, and those that the settings do not have.
    private func strangers(_ newest: GroupStatusResponse) -> [StatusPage.Finding] {
        views.compactMap { view in
            guard let answer = try? view.answer.get() else { return nil }
            if newest.formerGroups.contains(answer.group) {
                return finding(
                    .danger,
                    "\(view.name) (\(view.address)) is of the group that was given up when its "
                        + "majority was lost, and takes no part",
                    "move its directory away, start it again, and have it added anew: apus admin "
                        + "\(role.rawValue) add \(view.name) \(view.address)")
            }
            if answer.group != newest.group {
                return finding(
                    .danger,
                    "\(view.name) (\(view.address)) is of another group, of cluster "
                        + "'\(answer.cluster)'; this is '\(newest.cluster)'",
                    "see whether the address is right, and what runs there")
            }
            guard !newest.members.contains(where: { $0.name == view.name }) else { return nil }
            return finding(
                .danger, "\(view.name) (\(view.address)) is no member of the group",
                "take it in: apus admin \(role.rawValue) add \(view.name) \(view.address)")
        }
    }

    /// Members that take part and are behind, or that the leader does not reach.
    private func progress(_ newest: GroupStatusResponse) -> [StatusPage.Finding] {
        guard newest.leader == newest.peer else { return [] }
        let answers = own
        return newest.members.compactMap { member in
            guard member.peer != newest.leader, presence(of: member) == .takesPart else {
                return nil
            }
            // What it says itself; the leader knows only what is in its log.
            let own = answers[member.peer]
            let applied = own?.appliedIndex ?? member.lastIndex
            let behind = newest.appliedIndex > applied ? newest.appliedIndex - applied : 0
            if !member.isReachable {
                return finding(
                    .danger,
                    "\(member.name) (\(member.address)) answers here, but the leader does not "
                        + "reach it",
                    "see the network between the two: apus init check on both")
            }
            guard behind > Limits.lag, own?.disk ?? .well == .well else { return nil }
            return finding(
                .danger,
                "\(member.name) (\(member.address)) is \(behind) entries behind the leader",
                member.role == .learner
                    ? "it catches up, and votes when it has; nothing is to be done"
                    : "see whether its disk or its network is slow: apus disk check")
        }
    }

    private func finding(
        _ severity: StatusPage.Finding.Severity, _ what: String, _ advice: String
    ) -> StatusPage.Finding {
        StatusPage.Finding(severity: severity, what: what, advice: advice)
    }
}

extension GroupStatusResponse {
    /// Who says it.
    fileprivate struct Member: Hashable {
        var cluster: String
        var group: WireIdentity
        var peer: UInt64
    }

    fileprivate var member: Member { Member(cluster: cluster, group: group, peer: peer) }
}
