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
    var views: [View]

    /// Asks all members that the settings name, and those that one of these names besides.
    static func ask(
        _ role: ClusterRole, _ settings: Settings, _ runtime: Runtime
    ) async throws -> GroupHealth? {
        let members = try settings.members(of: role.group)
        guard members.count > 1 else { return nil }
        let client = try GroupClient(
            members.map(\.place.description), channels: runtime.channels,
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

    /// `OM: om2 leads, om1 om3 follow`.
    var summary: String {
        guard let newest else { return "\(title): no member answers" }
        let silent = Set(views.filter { (try? $0.answer.get()) == nil }.map(\.name))
        let members = newest.members.sorted { $0.name < $1.name }
        /// `om2 om3 follow`, `om2 follows`; nil if there are none.
        func text(
            _ one: String, _ several: String, _ isIncluded: (GroupMember) -> Bool
        ) -> String? {
            let names = members.filter(isIncluded).map(\.name)
            guard !names.isEmpty else { return nil }
            return names.joined(separator: " ") + " " + (names.count == 1 ? one : several)
        }
        let parts = [
            text("leads", "lead") { $0.peer == newest.leader } ?? "no leader",
            text("follows", "follow") {
                $0.peer != newest.leader && $0.role != .learner && !silent.contains($0.name)
            },
            text("learns", "learn") { $0.role == .learner && !silent.contains($0.name) },
            text("does not answer", "do not answer") { silent.contains($0.name) },
        ]
        return "\(title): " + parts.compactMap(\.self).joined(separator: ", ")
    }

    /// What is not as it should be.
    var findings: [StatusPage.Finding] {
        let silent = views.filter { (try? $0.answer.get()) == nil }
        guard let newest else {
            return [
                finding(
                    .outage, "\(title): none of its \(views.count) members answers",
                    "start them (systemctl start apus-\(role.rawValue) on each host); their logs say "
                        + "why they ended")
            ]
        }
        let voters = newest.members.filter { $0.role != .learner }
        let names = Set(silent.map(\.name))
        let alive = voters.count { !names.contains($0.name) }
        let needed = voters.count / 2 + 1
        var found: [StatusPage.Finding] = []
        if alive < needed {
            found.append(
                finding(
                    .outage,
                    "\(title): \(alive) of \(voters.count) members are there, and \(needed) must be",
                    "start those that do not answer: until then nothing can be changed"))
        } else if !voters.contains(where: { $0.peer == newest.leader }) {
            found.append(
                finding(
                    .outage, "\(title): no member leads",
                    "wait a second for the election; if none comes, see whether the members reach "
                        + "each other: apus init check"))
        }
        let spare = alive - needed
        for view in silent where newest.members.contains(where: { $0.name == view.name }) {
            let host = (try? HostPort(view.address))?.host ?? view.address
            let next =
                spare < 0
                ? ""
                : spare == 0
                    ? "; the group can lose no further member" : "; it can lose \(spare) more"
            found.append(
                finding(
                    spare < 0 ? .outage : .danger,
                    "\(view.name) (\(view.address)) does not answer\(next)",
                    "start it: systemctl start apus-\(role.rawValue) on \(host); if its machine is "
                        + "gone for good: apus admin \(role.rawValue) remove \(view.name), then add another"
                ))
        }
        return found + strangers(newest) + progress(newest, names)
    }

    /// Members of another cluster or group, and those that the settings do not have.
    private func strangers(_ newest: GroupStatusResponse) -> [StatusPage.Finding] {
        views.compactMap { view in
            guard let answer = try? view.answer.get() else { return nil }
            if answer.group != newest.group || answer.cluster != newest.cluster {
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

    /// Members that answer and are behind, or that the leader does not reach.
    private func progress(
        _ newest: GroupStatusResponse, _ silent: Set<String>
    ) -> [StatusPage.Finding] {
        guard newest.leader == newest.peer else { return [] }
        return newest.members.filter { $0.peer != newest.leader && !silent.contains($0.name) }
            .compactMap { member in
                let behind =
                    newest.appliedIndex > member.appliedIndex
                    ? newest.appliedIndex - member.appliedIndex : 0
                if !member.isReachable {
                    return finding(
                        .danger,
                        "\(member.name) (\(member.address)) answers here, but the leader does not "
                            + "reach it",
                        "see the network between the two: apus init check on both")
                }
                guard behind > Limits.lag else { return nil }
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
