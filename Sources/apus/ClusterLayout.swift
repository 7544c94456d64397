import Foundation
import Model

/// Where `apus up` keeps what, and the settings file of each role.
///
///     DIR/credentials   DIR/etc/NAME.json   DIR/run/NAME.pid   DIR/log/NAME.log
///     DIR/om1…  DIR/scm1…  DIR/dn1/{datanode.id,volume1…}
struct ClusterLayout: Sendable {
    let directory: String
    let s3Host: String
    private let s3Port: Int
    private let datanodes: Int
    private let volumesPerDatanode: Int
    private let replication: String
    /// Names of the members, `om1` and on.
    let oms: [String]
    let scms: [String]

    init(
        directory: String, oms: Int, scms: Int, datanodes: Int, volumesPerDatanode: Int,
        replication: String, s3: String
    ) throws {
        self.oms = (1...oms).map { "om\($0)" }
        self.scms = (1...scms).map { "scm\($0)" }
        self.directory = URL(fileURLWithPath: directory).standardizedFileURL.path
        self.datanodes = datanodes
        self.volumesPerDatanode = volumesPerDatanode
        self.replication = replication
        (s3Host, s3Port) = try Self.address(s3)
    }

    /// The parts of HOST:PORT.
    static func address(_ s3: String) throws(StoreError) -> (host: String, port: Int) {
        guard let colon = s3.lastIndex(of: ":"), let port = Int(s3[s3.index(after: colon)...]),
            colon > s3.startIndex, port >= 0, port <= 65535
        else { throw StoreError(.invalidArgument, "--s3 takes HOST:PORT, not '\(s3)'") }
        return (String(s3[..<colon]), port)
    }

    var credentials: String { directory + "/credentials" }
    func file(_ name: String) -> String { "\(directory)/etc/\(name).json" }
    func log(_ name: String) -> String { "\(directory)/log/\(name).log" }
    /// Where a role that runs writes the address of its metrics.
    func metrics(_ name: String) -> String { "\(directory)/run/\(name).metrics" }
    func pid(_ name: String) -> String { "\(directory)/run/\(name).pid" }

    private typealias Groups = [String: [String: Any]]

    /// Writes the settings files. Ports of the native protocol are chosen at the first start and
    /// kept, unless something else has taken them since.
    func write() throws {
        for folder in ["etc", "log", "run"] {
            try FileManager.default.createDirectory(
                atPath: "\(directory)/\(folder)", withIntermediateDirectories: true)
        }
        var taken: Set<Int> = []
        let id = clusterID()
        var common: Groups = ["cluster": ["replication": replication]]
        if !id.isEmpty { common["cluster"]?["id"] = id }
        var ports: [String: Int] = [:]
        for (group, names) in [("om", oms), ("scm", scms)] {
            for name in names { ports[name] = try port(name, group, &taken) }
            common[group] =
                names.count == 1
                ? ["host": "127.0.0.1", "port": ports[names[0]]!]
                : ["addresses": names.map { "\($0)=127.0.0.1:\(ports[$0]!)" }]
        }
        for (group, names) in [("om", oms), ("scm", scms)] {
            for name in names {
                var groups = common
                let own: [String: Any] = [
                    "id": name, "host": "127.0.0.1", "port": ports[name]!,
                    "directory": "\(directory)/\(name)",
                ]
                groups[group]?.merge(own) { _, own in own }
                try write(name, groups, group)
            }
        }
        for index in 1...datanodes {
            let name = "dn\(index)"
            var groups = common
            groups["datanode"] = [
                "host": "127.0.0.1", "port": try port(name, "datanode", &taken),
                "directory": "\(directory)/\(name)",
                "volumes": (1...volumesPerDatanode).map { "\(directory)/\(name)/volume\($0)" },
            ]
            try write(name, groups, "datanode")
        }
        common["s3"] = ["host": s3Host, "port": s3Port]
        try write("s3g1", common, "s3")
    }

    /// That of the cluster that is here, or a new one; empty if it has been here without one.
    private func clusterID() -> String {
        if let data = FileManager.default.contents(atPath: file("om1")),
            let groups = try? JSONSerialization.jsonObject(with: data) as? Groups,
            let id = groups["cluster"]?["id"] as? String, !id.isEmpty
        {
            return id
        }
        return present("scm").isEmpty ? UUID().uuidString.lowercased() : ""
    }

    /// The members of a group that have files here, of any number.
    func present(_ role: String) -> [String] { holders(of: ["member.id", "metadata.db"], role) }

    /// Those that have run.
    func begun(_ role: String) -> [String] { holders(of: ["metadata.db"], role) }

    /// All roles that have run here.
    var rolesBegun: [String] { begun("scm") + begun("om") + holders(of: ["datanode.id"], "dn") }

    /// The directories of a role that have one of `files`.
    private func holders(of files: [String], _ role: String) -> [String] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        return names.filter { name in
            name.hasPrefix(role) && Int(name.dropFirst(role.count)) != nil
                && files.contains {
                    FileManager.default.fileExists(atPath: "\(directory)/\(name)/\($0)")
                }
        }.sorted()
    }

    /// Those of the members `names` of a group that are to join it: they have no files.
    /// - Throws: `invalidArgument` where members have files that are not among them.
    func joining(_ names: [String], _ role: String) throws(StoreError) -> [String] {
        let present = present(role)
        guard present.allSatisfy({ names.contains($0) }) else {
            throw StoreError(
                .invalidArgument,
                "\(directory) has \(present.joined(separator: ", ")): --\(role)s takes at "
                    + "least the number of the last; take members out with apus admin \(role) "
                    + "remove while it runs, and move their directories away then")
        }
        return names.filter { !present.contains($0) }
    }

    /// Whether a group of which no member has run is to be started as it is, though: others have
    /// run, so a first start was cut off once all groups were begun. If not, nothing has ever run
    /// here, and it is to be begun.
    /// - Parameter founders: its first members, as their files say.
    /// - Throws: `invalidArgument` if others have run, and files of first members are missing.
    func isThere(_ role: String, founders: Set<String>) throws(StoreError) -> Bool {
        let others = rolesBegun
        guard !others.isEmpty else { return false }
        let missing = founders.subtracting(present(role))
        guard founders.isEmpty || !missing.isEmpty else { return true }
        // A new one would give numbers out again that stand for bytes on disks, or know no keys.
        throw StoreError(
            .invalidArgument,
            "\(directory) has \(others.joined(separator: ", ")), but no files of "
                + (founders.isEmpty ? "any \(role)" : missing.sorted().joined(separator: ", "))
                + ": bring its directory back, or begin a new cluster elsewhere")
    }

    /// Takes back what a member was to be that has never run.
    func forget(_ name: String) throws {
        let path = "\(directory)/\(name)/member.id"
        guard FileManager.default.fileExists(atPath: path) else { return }
        try FileManager.default.removeItem(atPath: path)
    }

    private func write(_ name: String, _ groups: Groups, _ group: String) throws {
        var groups = groups
        groups["node"] = ["name": name, "run": "\(directory)/run"]
        groups[group]?["metrics"] = "127.0.0.1:0"
        let data = try JSONSerialization.data(
            withJSONObject: groups, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
        try data.write(to: URL(fileURLWithPath: file(name)), options: .atomic)
    }

    private func port(_ name: String, _ group: String, _ taken: inout Set<Int>) throws -> Int {
        if let data = FileManager.default.contents(atPath: file(name)),
            let groups = try? JSONSerialization.jsonObject(with: data) as? Groups,
            let port = groups[group]?["port"] as? Int, !taken.contains(port),
            Self.bindable(port) == port
        {
            taken.insert(port)
            return port
        }
        // Not of those that the system gives to connections: one may have it before the role does,
        // a datanode's own attempts to reach SCM included.
        for _ in 0..<100 {
            let port = Int.random(in: 10_000..<Self.firstEphemeralPort())
            if !taken.contains(port), Self.bindable(port) == port {
                taken.insert(port)
                return port
            }
        }
        for _ in 0..<100 {
            if let port = Self.bindable(0), taken.insert(port).inserted { return port }
        }
        throw StoreError(.io, "no free port on 127.0.0.1")
    }

    /// The first port that the system gives to connections; 32768 unless it says otherwise.
    private static func firstEphemeralPort() -> Int {
        let path = "/proc/sys/net/ipv4/ip_local_port_range"
        let text = FileManager.default.contents(atPath: path).map {
            String(decoding: $0, as: UTF8.self)
        }
        let first = text?.split(whereSeparator: \.isWhitespace).first.flatMap { Int($0) }
        return max(first ?? 32_768, 10_001)
    }

    /// The port that a listener on loopback would get, nil if it cannot be had.
    private static func bindable(_ port: Int) -> Int? {
        guard
            let listener = try? CheckSockets.listen(at: HostPort(host: "127.0.0.1", port: port))
        else { return nil }
        defer { close(listener) }
        return CheckSockets.port(of: listener)
    }
}
