import Foundation
import Model
import RaftDriver

/// A host as the settings of its cluster have it: what runs on it, and where.
struct HostPlace: Sendable {
    /// Where a role listens.
    struct Listener: Hashable, Sendable {
        var role: ClusterRole
        var place: HostPort
        /// Only commands and monitors of this machine come here.
        var isMetrics = false

        var what: String { isMetrics ? "\(role.rawValue)'s metrics" : role.rawValue }
    }

    let file: String
    let name: String
    let cluster: String
    let replication: String
    let roles: [ClusterRole]
    /// The settings of each role here.
    private let settings: Settings
    /// Names of all hosts, in order.
    let hosts: [String]

    /// - Throws: `invalidArgument` if the file has no hosts, or not this one.
    init(file: String, host: String?) async throws {
        let content = try SettingsFile(file)
        guard !content.hosts.isEmpty else {
            throw StoreError(
                .invalidArgument, "\(file) is of one role, not of a cluster: it has no hosts")
        }
        let machine = Settings.machine
        guard let name = try content.section(of: host, machine: machine, for: nil) else {
            throw StoreError(
                .invalidArgument,
                "\(file) has no host \(machine) (this machine's name); it has: "
                    + content.hosts.keys.sorted().joined(separator: " ")
                    + ". Say which one this is with --host, or name the machine so: hostnamectl "
                    + "hostname NAME")
        }
        self.file = file
        self.name = name
        hosts = content.hosts.keys.sorted()
        roles = content.roles(of: name)
        settings = try await Settings(file: file, overrides: [], host: name)
        cluster = settings.text("cluster.id")
        replication = settings.text("cluster.replication")
    }

    /// Another host of the same file.
    func other(_ name: String) async throws -> HostPlace {
        try await HostPlace(file: file, host: name)
    }

    /// The directories that a role works in here.
    func directories(of role: ClusterRole) -> [String] {
        guard role != .s3gateway else { return [] }
        let own = settings.text("\(role.group).directory")
        return (own.isEmpty ? [] : [own])
            + (role == .datanode ? settings.list("datanode.volumes") : [])
    }

    var volumes: [String] { roles.contains(.datanode) ? settings.list("datanode.volumes") : [] }

    /// The directory of the datanode's identity.
    var datanodeDirectory: String { settings.text("datanode.directory") }

    /// What role `om` or `scm` is called here, as `om1`.
    func member(_ role: ClusterRole) -> String { settings.text("\(role.group).id") }

    /// Members of a group, of all hosts.
    func members(of role: ClusterRole) throws(StoreError) -> [MemberAddress] {
        try settings.members(of: role.group)
    }

    /// Which member of a group is here.
    func groupPlace(_ role: ClusterRole) throws -> GroupPlace { try settings.place(role.group) }

    /// Where the roles listen, metrics last.
    func listeners() throws -> [Listener] {
        var found: [Listener] = []
        for role in roles {
            let port = try settings.number("\(role.group).port")
            found.append(
                Listener(
                    role: role,
                    place: HostPort(host: settings.text("\(role.group).host"), port: port)
                ))
        }
        for role in roles {
            let text = settings.text("\(role.group).metrics")
            if !text.isEmpty, let place = try? HostPort(text) {
                found.append(Listener(role: role, place: place, isMetrics: true))
            }
        }
        return found.filter { $0.place.port != 0 }
    }

    /// How others reach this host; nil if it listens nowhere that they could reach.
    func address() throws -> String? {
        var places: [HostPort] = []
        for role in roles where role == .om || role == .scm {
            let own = member(role)
            places += try members(of: role).filter { $0.name == own }.map(\.place)
        }
        places += try listeners().filter { !$0.isMetrics }.map(\.place)
        // Where a role listens at every address, none of them is named.
        return places.map(\.host).first { host in
            !Settings.isLoopback(host) && host != "0.0.0.0" && host != "::"
        }
    }
}
