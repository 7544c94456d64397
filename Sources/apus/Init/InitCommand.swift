import ArgumentParser
import Foundation
import Model

/// `apus init`: from nothing to a cluster on several hosts.
struct InitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init", abstract: "Set up a cluster on several hosts.",
        subcommands: [Write.self, Host.self, Check.self], defaultSubcommand: Write.self)

    /// `apus init [write]`
    struct Write: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write the settings of a cluster, and say what to do on each host.",
            discussion: """
                What is not given is asked for at a terminal. With --host and --volume nothing is \
                asked: the rest has defaults. The same file goes to /etc/apus on all hosts; it \
                holds no secrets.
                """)

        @Option(name: .customLong("cluster-id"), help: "Names the cluster. Default: drawn.")
        var id: String?
        @Option(
            name: .customLong("host"),
            help:
                "NAME=ADDRESS of a host: its name as `hostname` prints it, and how others reach it."
        )
        var hosts: [String] = []
        @Option(name: .customLong("volume"), help: "A directory on a disk, of each datanode.")
        var volumes: [String] = []
        @Option(
            name: .customLong("host-volumes"), help: "HOST=DIR,DIR… where a host has others.")
        var hostVolumes: [String] = []
        @Option(name: .customLong("rack"), help: "HOST=/RACK, the host's place in the network.")
        var racks: [String] = []
        @Option(help: "Hosts of OMs, comma between. Default: the first three, or one.")
        var om: String?
        @Option(help: "Hosts of SCMs. Default: the first three, or one.") var scm: String?
        @Option(help: "Hosts of datanodes. Default: all.") var datanode: String?
        @Option(help: "Hosts of S3 gateways. Default: all.") var s3: String?
        @Option(
            help: "What buckets are coded with that ask for nothing else. Default: what suits.")
        var replication: String?
        @Option(help: "Where roles keep what is not on volumes.") var directory = "/var/lib/apus"
        @Option(help: "The file to write.") var output = SettingsFile.standardPath
        @Flag(help: "Replace the file if it is there.") var force = false

        func run() async throws {
            var command = self
            if hosts.isEmpty || volumes.isEmpty && hostVolumes.isEmpty {
                guard isatty(STDIN_FILENO) == 1 || !force && isAsking else {
                    throw ValidationError(
                        "without a terminal --host NAME=ADDRESS and --volume DIR must be given")
                }
                try command.ask(ClusterQuestions())
            }
            let plan: ClusterPlan
            do throws(StoreError) { plan = try command.plan() } catch {
                throw ValidationError(error.message)
            }
            try write(plan)
            for line in InitSteps.lines(plan, file: output) { print(line) }
        }

        /// Answers come through a pipe where the caller says so, as tests do.
        private var isAsking: Bool { ProcessInfo.processInfo.environment["APUS_INIT_ASK"] == "1" }

        /// Asks for what was not given.
        mutating func ask(_ questions: ClusterQuestions) throws(StoreError) {
            if id == nil {
                id = try questions.ask("Name of the cluster", usual: Self.drawnID()) {
                    (text) throws(StoreError) in
                    try ClusterPlan.check(name: text, of: "a cluster")
                    return text
                }
            }
            if hosts.isEmpty { hosts = try questions.hosts().map { "\($0.name)=\($0.address)" } }
            if volumes.isEmpty, hostVolumes.isEmpty {
                volumes = try questions.ask(
                    "Directories of the datanodes, one a disk, comma between",
                    usual: "\(directory)/disk1"
                ) { (text) throws(StoreError) in
                    let paths = Self.split(text)
                    guard paths.allSatisfy({ $0.hasPrefix("/") }) else {
                        throw StoreError(.invalidArgument, "full paths, beginning with /")
                    }
                    return paths
                }
            }
            guard replication == nil else { return }
            let names = hosts.map { String($0.prefix { $0 != "=" }) }
            let datanodes = datanode.map { Self.split($0).count } ?? names.count
            replication = try questions.ask(
                "Replication: what buckets are coded with that ask for nothing else",
                usual: ClusterPlan.usualReplication(datanodes: datanodes)
            ) { (text) throws(StoreError) in
                do { return try ReplicationConfig(text).description } catch {
                    throw StoreError(.invalidArgument, "\(error)")
                }
            }
        }

        private static func drawnID() -> String {
            "apus-" + String(format: "%08x", UInt32.random(in: 0...(.max)))
        }

        private static func split(_ text: String) -> [String] {
            text.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
        }

        /// What was given, put together and checked.
        func plan() throws(StoreError) -> ClusterPlan {
            var known: [ClusterPlan.Host] = []
            for text in hosts {
                let (name, address) = try ClusterQuestions.pair(text, "--host")
                known.append(.init(name: name, address: address, rack: nil, volumes: volumes))
            }
            func place(of name: String, _ option: String) throws(StoreError) -> Int {
                guard let index = known.firstIndex(where: { $0.name == name }) else {
                    throw StoreError(
                        .invalidArgument,
                        "\(option): there is no host \(name); there are: "
                            + known.map(\.name).joined(separator: " "))
                }
                return index
            }
            for text in hostVolumes {
                let (name, list) = try ClusterQuestions.pair(text, "--host-volumes")
                known[try place(of: name, "--host-volumes")].volumes = Self.split(list)
            }
            for text in racks {
                let (name, rack) = try ClusterQuestions.pair(text, "--rack")
                guard rack.hasPrefix("/") else {
                    throw StoreError(
                        .invalidArgument, "--rack \(text): a rack is written /rack or /room/rack")
                }
                known[try place(of: name, "--rack")].rack = rack
            }
            var members: [ClusterRole: [String]] = [:]
            members[.om] = om.map(Self.split)
            members[.scm] = scm.map(Self.split)
            members[.datanode] = datanode.map(Self.split)
            members[.s3gateway] = s3.map(Self.split)
            return try ClusterPlan(
                id: id ?? Self.drawnID(), replication: replication, hosts: known, members: members,
                directory: directory)
        }

        /// Everybody may read it: commands of any user find the cluster by it.
        private func write(_ plan: ClusterPlan) throws {
            guard force || !FileManager.default.fileExists(atPath: output) else {
                throw StoreError(
                    .invalidArgument,
                    "\(output) is there already; with --force it is replaced. A cluster that runs "
                        + "must keep its cluster.id and its members")
            }
            let data = try plan.encoded()
            // What was written must be what is read.
            _ = try SettingsFile(output, data)
            let folder = (output as NSString).deletingLastPathComponent
            if !folder.isEmpty {
                try FileManager.default.createDirectory(
                    atPath: folder, withIntermediateDirectories: true)
            }
            try DurableFile.replace(output, with: data, mode: 0o644)
        }
    }
}

/// What is to be done when the settings of a cluster are written.
enum InitSteps {
    static func lines(_ plan: ClusterPlan, file: String) -> [String] {
        let names = plan.hosts.map(\.name)
        let standard = file == SettingsFile.standardPath
        let config = standard ? "" : " --config \(file)"
        let roles = ClusterRole.allCases.map { role in
            "\(plan.members[role]?.count ?? 0) \(role.rawValue)"
        }
        var lines = [
            "wrote \(file): cluster \(plan.id), \(counted(names.count, "host")), "
                + "\(roles.joined(separator: ", ")), \(plan.replication)",
            "",
            "1. The same file on all hosts:",
        ]
        lines += names.map { "     scp \(file) \($0):\(file)" }
        lines += ["", "2. On each host, as root, then on all at the same time:"]
        lines += ["     apus init host\(config)", "     apus init check\(config)", ""]
        lines.append("3. The first start, as root. A group is made once, and never again:")
        for host in plan.hosts {
            lines.append("   on \(host.name):")
            let groups = [ClusterRole.om, .scm].filter {
                plan.members[$0]?.contains(host.name) == true
            }
            for role in groups {
                lines.append(
                    "     runuser -u \(DirectoryOwner.serviceUser) -- apus \(role.rawValue)\(config) --init"
                )
            }
            lines.append(
                "     systemctl enable --now " + units(of: host.name, plan).joined(separator: " "))
        }
        lines += ["", "4. On one host, when all run:", "     apus admin status\(config)"]
        lines.append("     apus user create \(Users.firstName) --admin\(config)")
        return lines
    }

    /// The units of a host, those that others need first.
    static func units(of host: String, _ plan: ClusterPlan) -> [String] {
        ClusterRole.allCases.filter { plan.members[$0]?.contains(host) == true }.map { role in
            role == .s3gateway ? "apus-s3gateway@\(role.port)" : "apus-\(role.rawValue)"
        }
    }
}
