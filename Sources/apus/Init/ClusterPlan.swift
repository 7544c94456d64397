import Foundation
import Model

/// What a cluster on several hosts is to be: what `apus init` asks for and writes down.
struct ClusterPlan: Sendable {
    /// A machine of the cluster.
    struct Host: Sendable, Hashable {
        var name: String
        /// How the others reach it: an address, or a name that all of them know.
        var address: String
        var rack: String?
        /// Directories of its datanode, a disk each.
        var volumes: [String]
    }

    /// Bounds of what is asked for.
    enum Limits {
        static let hosts = 1000
        static let nameBytes = 64
    }

    var id: String
    var replication: ReplicationConfig
    var hosts: [Host]
    /// Names of the hosts with each role, in the order of the members' numbers.
    var members: [ClusterRole: [String]]
    /// Where the roles keep what is not on volumes.
    var directory = "/var/lib/apus"

    /// Checks what belongs together. Throws `invalidArgument` with what would be right.
    init(
        id: String, replication: String?, hosts: [Host], members: [ClusterRole: [String]],
        directory: String = "/var/lib/apus"
    ) throws(StoreError) {
        self.id = id
        self.hosts = hosts
        self.directory = directory
        try Self.check(name: id, of: "a cluster")
        guard !hosts.isEmpty, hosts.count <= Limits.hosts else {
            throw Self.refusal("a cluster has 1 to \(Limits.hosts) hosts, not \(hosts.count)")
        }
        self.members = members
        for role in ClusterRole.allCases {
            let given = members[role] ?? Self.usualHosts(of: role, among: hosts.map(\.name))
            self.members[role] = given
            if let strange = given.first(where: { name in !hosts.contains { $0.name == name } }) {
                throw Self.refusal(
                    "\(role.rawValue): there is no host \(strange); there are: "
                        + hosts.map(\.name).joined(separator: " "))
            }
            guard Set(given).count == given.count else {
                throw Self.refusal(
                    "\(role.rawValue): a host is named twice: \(given.joined(separator: " "))")
            }
        }
        let datanodes = self.members[.datanode]?.count ?? 0
        self.replication = try Self.replication(replication, datanodes: datanodes)
        for role in [ClusterRole.om, .scm] { try checkGroup(of: role) }
        try checkHosts()
    }

    private static func refusal(_ text: String) -> StoreError { StoreError(.invalidArgument, text) }

    /// OMs and SCMs on the first three hosts, if there are so many; the other roles on all.
    static func usualHosts(of role: ClusterRole, among names: [String]) -> [String] {
        switch role {
        case .om, .scm: Array(names.prefix(names.count >= 3 ? 3 : 1))
        case .datanode, .s3gateway: names
        }
    }

    /// What buckets are coded with: as asked, or what suits so many datanodes.
    private static func replication(
        _ given: String?, datanodes: Int
    ) throws(StoreError) -> ReplicationConfig {
        guard let text = given ?? usualReplication(datanodes: datanodes) else {
            throw refusal(
                "\(counted(datanodes, "datanode")): too few for a replication that survives the loss "
                    + "of one; have three at least, or say which one is to be used")
        }
        let replication: ReplicationConfig
        do {
            replication = try ReplicationConfig(text)
            _ = try replication.erasureCoding()
        } catch let error as StoreError {
            throw error
        } catch {
            throw refusal("replication: \(error)")
        }
        guard replication.width <= datanodes else {
            let fitting = usualReplication(datanodes: datanodes).map { "; \($0) would do" } ?? ""
            throw refusal(
                "\(replication) needs \(replication.width) datanodes, and there are \(datanodes)"
                    + fitting)
        }
        return replication
    }

    /// Nil where no loss could be survived.
    static func usualReplication(datanodes: Int) -> String? {
        switch datanodes {
        case ..<3: nil
        case 3..<5: "xor-2-1-1024k"
        case 5..<9: "rs-3-2-1024k"
        default: "rs-6-3-1024k"
        }
    }

    /// Names are parts of messages, of members' names and of files.
    static func check(name: String, of what: String) throws(StoreError) {
        let isFine = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: [UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_")].contains(byte)
            }
        }
        guard isFine, (1...Limits.nameBytes).contains(name.utf8.count), name.first != "-" else {
            throw refusal(
                "\(what) is named with 1 to \(Limits.nameBytes) letters, digits, dots, - and _, not "
                    + "'\(name)'")
        }
    }

    private func checkGroup(of role: ClusterRole) throws(StoreError) {
        let count = members[role]?.count ?? 0
        guard count % 2 == 1, count <= 7 else {
            let better = count < 2 ? "1" : "\(min(count - 1, 7)) or \(min(count + 1, 7))"
            throw Self.refusal(
                "\(role.rawValue): a group of \(count) survives no more losses than one of "
                    + "\(max(count - 1, 1)): have 1, 3, 5 or 7 (here \(better))")
        }
    }

    private func checkHosts() throws(StoreError) {
        var seen: Set<String> = []
        var addresses: [String: String] = [:]
        for host in hosts {
            try Self.check(name: host.name, of: "a host")
            guard seen.insert(host.name).inserted else {
                throw Self.refusal("the host \(host.name) is named twice")
            }
            // An address with a colon is one of IPv6, and is put in brackets.
            guard (try? HostPort(HostPort(host: host.address, port: 1).description)) != nil else {
                throw Self.refusal("\(host.name): '\(host.address)' is no address of a host")
            }
            guard hosts.count == 1 || !Settings.isLoopback(host.address) else {
                throw Self.refusal(
                    "\(host.name): the others do not reach it at \(host.address); give the address "
                        + "that it has in their network")
            }
            if let other = addresses.updateValue(host.name, forKey: host.address) {
                throw Self.refusal(
                    "\(other) and \(host.name) have the same address, \(host.address)")
            }
            guard members[.datanode]?.contains(host.name) == true else { continue }
            guard !host.volumes.isEmpty, Set(host.volumes).count == host.volumes.count else {
                throw Self.refusal(
                    "\(host.name): a datanode has one directory a disk, at least one and each once")
            }
            for path in host.volumes where !path.hasPrefix("/") || path.contains(",") {
                throw Self.refusal(
                    "\(host.name): '\(path)' is no full path of a directory; no comma may be in it")
            }
        }
    }

    // MARK: The file

    /// The settings file, as `/etc/apus/cluster.json` has it.
    func encoded() throws(StoreError) -> Data {
        var top: [String: Any] = [
            "cluster": ["id": id, "replication": "\(replication)"],
            "datanode": ["directory": "\(directory)/datanode", "metrics": "127.0.0.1:9874"],
            "s3": ["metrics": "127.0.0.1:9875"],
        ]
        for (role, metrics) in [(ClusterRole.om, 9872), (.scm, 9873)] {
            top[role.group] = [
                "addresses": members(of: role).map { "\($0.name)=\($0.place)" },
                "directory": "\(directory)/\(role.rawValue)", "metrics": "127.0.0.1:\(metrics)",
            ]
        }
        var sections: [String: Any] = [:]
        for host in hosts { sections[host.name] = section(of: host) }
        top["hosts"] = sections
        do {
            return try JSONSerialization.data(
                withJSONObject: top,
                options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]) + Data("\n".utf8)
        } catch {
            throw StoreError(.internal, "the settings cannot be written as JSON: \(error)")
        }
    }

    private func section(of host: Host) -> [String: [String: Any]] {
        var groups: [String: [String: Any]] = [:]
        for role in [ClusterRole.om, .scm] {
            guard let index = members[role]?.firstIndex(of: host.name) else { continue }
            groups[role.group] = ["id": "\(role.rawValue)\(index + 1)"]
        }
        if members[.datanode]?.contains(host.name) == true {
            groups["datanode"] = ["host": host.address, "volumes": host.volumes]
            if let rack = host.rack { groups["datanode"]?["rack"] = rack }
        }
        if members[.s3gateway]?.contains(host.name) == true {
            groups["s3"] = ["host": host.address]
        }
        return groups
    }

    /// The members of a group, `om1` first.
    func members(of role: ClusterRole) -> [(name: String, place: HostPort, host: String)] {
        (members[role] ?? []).enumerated().compactMap { index, name in
            guard let host = hosts.first(where: { $0.name == name }) else { return nil }
            return (
                "\(role.rawValue)\(index + 1)", HostPort(host: host.address, port: role.port), name
            )
        }
    }
}
