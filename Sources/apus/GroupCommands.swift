import ArgumentParser
import Client
import Foundation
import Model
import Reactor
import Transport
import Wire

/// `apus admin om …` and `apus admin scm …`: the members of a group.
protocol GroupKind: SendableMetatype {
    /// `om` or `scm`.
    static var role: String { get }
}

enum OMGroup: GroupKind { static let role = "om" }
enum SCMGroup: GroupKind { static let role = "scm" }

/// The group that a command is about.
struct GroupAccess {
    let client: GroupClient

    init(_ cluster: ClusterOptions, _ role: String) async throws {
        let settings = try await Settings(file: cluster.file(), overrides: [])
        let runtime = try Runtime(name: "apus", memory: .none, reactors: 1)
        client = try GroupClient(
            settings.addresses(of: role), channels: runtime.channels, on: runtime.reactors.next())
    }

    /// What the members say that can be asked. Throws why if none can be.
    func views() async throws(StoreError) -> [GroupStatusResponse] {
        let answers = await client.askAll()
        let views = answers.compactMap { try? $0.view.get() }
        if views.isEmpty, let first = answers.first { _ = try first.view.get() }
        return views
    }
}

/// A member of a group as `roles` lists it.
struct MemberRow: Encodable {
    var id: String
    var role: String
    var address: String
    var term: UInt64
    var appliedIndex: UInt64
    /// Of the leader's view: the last entry that the member has.
    var lastIndex: UInt64
    /// Whether it answers.
    var isReachable: Bool
    /// Of a snapshot that it is being given: its bytes, and how many of them it has.
    var snapshotBytes: UInt64?
    var snapshotBytesSent: UInt64?

    /// How far a snapshot is, for people; nil while there is none.
    var snapshotProgress: String? {
        guard let snapshotBytes, let snapshotBytesSent, snapshotBytes > 0 else { return nil }
        return "\(formatBytes(Int(clamping: snapshotBytesSent))) of "
            + "\(formatBytes(Int(clamping: snapshotBytes))) of a snapshot"
    }

    /// Of the view of the leader, or of the one with the latest term, and what each member says of
    /// itself.
    static func rows(_ views: [GroupStatusResponse]) -> [MemberRow] {
        guard let best = views.max(by: { $0.knowledge < $1.knowledge }) else { return [] }
        let own = Dictionary(views.map { ($0.peer, $0) }) { first, _ in first }
        return best.members.map { member in
            let view = own[member.peer]
            let role =
                switch member.role {
                case .leader: "leader"
                case .learner: "learner"
                case .follower, .UNRECOGNIZED: "follower"
                }
            return MemberRow(
                id: member.name.isEmpty ? "\(member.peer)" : member.name, role: role,
                address: member.address, term: view?.term ?? 0,
                appliedIndex: view?.appliedIndex ?? 0, lastIndex: member.lastIndex,
                isReachable: view != nil,
                snapshotBytes: member.snapshotBytes > 0 ? member.snapshotBytes : nil,
                snapshotBytesSent: member.snapshotBytes > 0 ? member.snapshotBytesSent : nil)
        }.sorted { $0.id < $1.id }
    }
}

/// A member that was added, as those see it who wait until it votes.
struct JoiningMember {
    enum State: Equatable {
        case votes
        /// How far it is.
        case learns(String)
        /// It was there and is not any more.
        case gone
        /// Nobody who answers knows of it.
        case unknown
    }

    let name: String
    /// How far whoever knew of it last had applied the log.
    private var seenAt: UInt64?

    init(name: String) { self.name = name }

    /// - Parameters:
    ///   - ofLeader: whether the leader says so: another may not have heard of it yet.
    ///   - applied: how far whoever says so has applied the log. One that has just begun to lead may
    ///     be behind who led before it.
    mutating func look(at rows: [MemberRow], ofLeader: Bool, applied: UInt64) -> State {
        // While one of the same name is replaced both are there.
        let named = rows.filter { $0.id == name }
        guard let row = named.first(where: { $0.role == "learner" }) ?? named.first else {
            return seenAt.map { ofLeader && applied > $0 } ?? false ? .gone : .unknown
        }
        seenAt = max(seenAt ?? 0, applied)
        guard row.role == "learner" else { return named.count == 1 ? .votes : .unknown }
        let last = rows.map(\.lastIndex).max() ?? 0
        return .learns(row.snapshotProgress ?? "entry \(row.lastIndex) of \(last)")
    }
}

struct GroupCommands<Group: GroupKind>: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: Group.role, abstract: "The members of \(Group.role.uppercased())'s group.",
            subcommands: [Roles.self, Add.self, Remove.self, Transfer.self])
    }

    struct Roles: AsyncParsableCommand {
        static var configuration: CommandConfiguration {
            CommandConfiguration(commandName: "roles", abstract: "Who leads, and who follows.")
        }
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            let rows = MemberRow.rows(try await GroupAccess(cluster, Group.role).views())
            if cluster.json { return try printJSON(rows) }
            printTable(
                ["MEMBER", "ROLE", "ADDRESS", "TERM", "APPLIED"],
                rows.map {
                    [
                        $0.id, $0.role, $0.address, $0.isReachable ? "\($0.term)" : "-",
                        $0.isReachable
                            ? $0.snapshotProgress.map { "has \($0)" } ?? "\($0.appliedIndex)"
                            : "does not answer",
                    ]
                })
        }
    }

    struct Add: AsyncParsableCommand {
        static var configuration: CommandConfiguration {
            CommandConfiguration(
                commandName: "add",
                abstract: "Take a member in, in the place of one of the same name.",
                discussion: """
                    Its process is started first, with an empty directory: it waits for this. It \
                    learns what the group knows without a vote, and votes when it has caught up. A \
                    member of the same name that has lost its files is replaced.
                    """)
        }
        @Argument(help: "Its name, as \(Group.role)2.") var name: String
        @Argument(help: "HOST:PORT where its process waits.") var address: String
        @Flag(help: "Do not wait until it votes.") var detach = false
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            let access = try await GroupAccess(cluster, Group.role)
            try await access.client.add(name, at: address)
            note("\(name) is a learner")
            if !detach { try await follow(access) }
        }

        /// Shows how it catches up, until it votes.
        private func follow(_ access: GroupAccess) async throws {
            var member = JoiningMember(name: name)
            var told = ""
            follow: while true {
                var line: String?
                do throws(StoreError) {
                    let views = try await access.views()
                    let best = views.max { $0.knowledge < $1.knowledge }
                    let state = member.look(
                        at: MemberRow.rows(views),
                        ofLeader: best.map { $0.peer == $0.leader } ?? false,
                        applied: best?.appliedIndex ?? 0)
                    switch state {
                    case .votes: return print("\(name) has caught up and votes")
                    case .learns(let progress): line = "\(name) has \(progress)"
                    case .gone: break follow
                    case .unknown: break
                    }
                } catch {
                    line = "no member answers: \(error.message)"
                }
                if let line, line != told { note(line) }
                told = line ?? told
                try await Task.sleep(for: .milliseconds(500))
            }
            throw StoreError(
                .cancelled, "\(name) was taken out of the group again before it had caught up")
        }
    }

    struct Remove: AsyncParsableCommand {
        static var configuration: CommandConfiguration {
            CommandConfiguration(commandName: "remove", abstract: "Take a member out for good.")
        }
        @Argument(help: "Its name.") var name: String
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            try await GroupAccess(cluster, Group.role).client.remove(name)
        }
    }

    struct Transfer: AsyncParsableCommand {
        static var configuration: CommandConfiguration {
            CommandConfiguration(commandName: "transfer", abstract: "Hand leadership to a member.")
        }
        @Argument(help: "Its name.") var name: String
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            try await GroupAccess(cluster, Group.role).client.transfer(to: name)
        }
    }
}
