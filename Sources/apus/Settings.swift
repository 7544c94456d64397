import ArgumentParser
import Client
import Configuration
import Foundation
import Model
import RaftDriver
import Transport

/// One setting of a role: its key, what it is for, and its value when nobody gives one.
struct Setting: Sendable {
    enum Kind: Sendable {
        case text, number, list

        /// What it looks like in a file.
        var shape: String {
            switch self {
            case .text: "a text, in quotes"
            case .number: "a whole number"
            case .list: #"a list of texts, as ["a", "b"]"#
            }
        }
    }
    var key: String
    var kind: Kind
    var fallback: String
    var help: String

    static let all: [Setting] = [
        Setting(
            key: "cluster.replication", kind: .text, fallback: "rs-3-2-1024k",
            help: "what buckets are coded with that ask for nothing else"),
        Setting(
            key: "cluster.id", kind: .text, fallback: "",
            help: "names the cluster: directories of another are refused; empty: any is taken"),
        Setting(
            key: "om.id", kind: .text, fallback: "om1", help: "which of the OMs this one is"),
        Setting(
            key: "om.addresses", kind: .list, fallback: "",
            help: "all OMs, as om1=HOST:PORT,om2=HOST:PORT,…; empty: one, at om.host and om.port"),
        Setting(
            key: "scm.id", kind: .text, fallback: "scm1", help: "which of the SCMs this one is"),
        Setting(
            key: "scm.addresses", kind: .list, fallback: "",
            help: "all SCMs, as scm1=HOST:PORT,scm2=HOST:PORT,…; empty: one, at scm.host and "
                + "scm.port"),
        Setting(
            key: "om.host", kind: .text, fallback: "127.0.0.1", help: "host that OM listens at"),
        Setting(key: "om.port", kind: .number, fallback: "9862", help: "OM's port"),
        Setting(key: "om.directory", kind: .text, fallback: "", help: "directory of OM's metadata"),
        Setting(
            key: "om.cache-bytes", kind: .number, fallback: "67108864",
            help: "memory for records that are looked up often, beside the database's pages"),
        Setting(
            key: "om.deletion-delay-ms", kind: .number, fallback: "60000",
            help: "how long the bytes of a deleted or replaced key stay; readers under way renew "
                + "it, however slow they are, and have 24 hours. Below 10000 only for tests"),
        Setting(
            key: "om.reactors", kind: .number, fallback: "0",
            help: "threads that OM's connections and its log run on; 0: one for each four cores"),
        Setting(
            key: "om.snapshot-bytes-per-second", kind: .number,
            fallback: String(RaftMemberLimits.snapshotRate),
            help: "how fast OM's tables are copied, sent to a member that joins or was away for "
                + "long, and taken over there, at most; less where the disk is busy. 0: as fast as it "
                + "goes, at the cost of requests meanwhile"),
        Setting(
            key: "om.metrics", kind: .text, fallback: "",
            help: "HOST:PORT of OM's metrics over HTTP; empty: none. Nobody is asked who they are"),
        Setting(
            key: "client.window-bytes", kind: .number,
            fallback: String(ClusterClient.windowBytes),
            help: "memory for bytes on their way to and from datanodes, of all requests of a "
                + "gateway; each takes a stripe at least"),
        Setting(
            key: "client.reads", kind: .text, fallback: LeaderChannel.ReadPlace.leader.rawValue,
            help:
                "which OMs answer look-ups and listings: leader, or members for all in turn, which "
                + "spreads the work; no answer is older for it"),
        Setting(
            key: "scm.host", kind: .text, fallback: "127.0.0.1", help: "host that SCM listens at"),
        Setting(key: "scm.port", kind: .number, fallback: "9863", help: "SCM's port"),
        Setting(
            key: "scm.directory", kind: .text, fallback: "", help: "directory of SCM's metadata"),
        Setting(
            key: "scm.minimum-datanodes", kind: .number, fallback: "1",
            help: "datanodes that must have registered before safe mode ends"),
        Setting(
            key: "scm.stale-after-ms", kind: .number, fallback: "5000",
            help: "a datanode silent for so long gets no new blocks"),
        Setting(
            key: "scm.dead-after-ms", kind: .number, fallback: "15000",
            help: "a datanode silent for so long does not count as holding its replicas"),
        Setting(
            key: "scm.container-bytes", kind: .number, fallback: "5368709120",
            help: "a container is closed when a replica nears this size"),
        Setting(
            key: "scm.disk-failures-percent", kind: .number, fallback: "2",
            help: "how many of a hundred disks fail in a year: what admin safety computes with"),
        Setting(
            key: "scm.open-containers", kind: .number, fallback: "3",
            help: "containers that are open for each replication in use, at least, 1 to 1000"),
        Setting(
            key: "scm.open-replica-bytes-per-second", kind: .number, fallback: "8388608",
            help:
                "what is written to a replica of an open container before another one is opened, up "
                + "to one for each replica's disk"),
        Setting(
            key: "scm.maintenance-redundancy", kind: .number, fallback: "1",
            help:
                "replicas beyond those that reading needs that a container keeps in service while "
                + "datanodes of it are in maintenance, 0 to 16"),
        Setting(
            key: "scm.close-delay-ms", kind: .number, fallback: "10000",
            help: "how long a container that gets no new blocks stays open for writers that were "
                + "given one"),
        Setting(
            key: "scm.repair-after-ms", kind: .number, fallback: "300000",
            help:
                "how long after a datanode's death its replicas are rebuilt elsewhere; what is lost "
                + "on one that is there is rebuilt at once, what is damaged is healed in place"),
        Setting(
            key: "scm.heal-patience-ms", kind: .number, fallback: "60000",
            help:
                "a damaged replica that its datanode does not heal in place for so long is rebuilt"
                + " elsewhere"),
        Setting(
            key: "scm.repairs-per-target", kind: .number, fallback: "2",
            help: "replicas that a datanode rebuilds at a time, for each of its disks, 1 to 64"),
        Setting(
            key: "scm.repairs-per-source", kind: .number, fallback: "8",
            help:
                "replicas being rebuilt at a time that may read from one datanode, for each of its "
                + "disks, 1 to 1024"),
        Setting(
            key: "scm.snapshot-bytes-per-second", kind: .number,
            fallback: String(RaftMemberLimits.snapshotRate),
            help: "how fast SCM's tables are copied, sent to a member that joins or was away for "
                + "long, and taken over there, at most; less where the disk is busy. 0: as fast as it "
                + "goes, at the cost of requests meanwhile"),
        Setting(
            key: "scm.metrics", kind: .text, fallback: "",
            help: "HOST:PORT of SCM's metrics over HTTP; empty: none. Nobody is asked who they are"),
        Setting(
            key: "datanode.host", kind: .text, fallback: "127.0.0.1",
            help: "where the datanode listens, as others reach it"),
        Setting(
            key: "datanode.port", kind: .number, fallback: "9864",
            help: "the datanode's port; 0: any that is free"),
        Setting(
            key: "datanode.rack", kind: .text, fallback: "/default-rack",
            help: "network location: /rack or /room/rack"),
        Setting(
            key: "datanode.directory", kind: .text, fallback: "", help: "directory of its identity"),
        Setting(
            key: "datanode.volumes", kind: .list, fallback: "",
            help: "one directory for each disk"),
        Setting(
            key: "datanode.reactors", kind: .number, fallback: "0",
            help: "threads that serve connections and disks; 0: one a volume, at most one a core"),
        Setting(
            key: "datanode.volume-limit-bytes", kind: .number, fallback: "0",
            help: "the most bytes that the datanode's files take of each volume; 0: all but the "
                + "256 MiB that are always left free"),
        Setting(
            key: "datanode.reclaim-delay-ms", kind: .number, fallback: "30000",
            help: "how long the space of deleted blocks is gathered, to be given back in fewer and "
                + "larger pieces; less where little is free"),
        Setting(
            key: "datanode.reconstructions", kind: .number, fallback: "2",
            help: "lost replicas that are rebuilt here at a time, for each of the volumes"),
        Setting(
            key: "datanode.durability", kind: .text, fallback: "sync",
            help: "sync: acknowledged is on stable media; writeback: it may be in memory"),
        Setting(
            key: "datanode.scrub.enabled", kind: .text, fallback: "true",
            help: "true: stored bytes are read and verified in the background; false: they are not"),
        Setting(
            key: "datanode.scrub.period-hours", kind: .number, fallback: "336",
            help: "each replica is verified once in so long"),
        Setting(
            key: "datanode.scrub.bytes-per-second", kind: .number, fallback: "67108864",
            help: "read at most so fast from each disk; 0: as fast as clients leave room"),
        Setting(
            key: "datanode.metrics", kind: .text, fallback: "",
            help:
                "HOST:PORT of the datanode's metrics over HTTP; empty: none. Nobody is asked who they are"
        ),
        Setting(
            key: "s3.host", kind: .text, fallback: "127.0.0.1",
            help: "where the S3 gateway listens"),
        Setting(
            key: "s3.port", kind: .number, fallback: "9878",
            help: "the S3 gateway's port; 0: any that is free"),
        Setting(
            key: "s3.region", kind: .text, fallback: "us-east-1",
            help: "what GetBucketLocation tells"),
        Setting(
            key: "s3.base-domains", kind: .list, fallback: "",
            help: "domains below which the host name names the bucket"),
        Setting(
            key: "s3.signature-v2", kind: .text, fallback: "true",
            help: "true: presigned URLs of Signature Version 2 are taken, which boto3 makes unless "
                + "told otherwise; false: only Version 4"),
        Setting(
            key: "s3.metrics", kind: .text, fallback: "",
            help:
                "HOST:PORT of the gateway's metrics over HTTP; empty: none. Nobody is asked who they are"
        ),
        Setting(
            key: "node.name", kind: .text, fallback: "",
            help: "what the role is called in metrics and traces; empty: om, scm, datanode…"),
        Setting(
            key: "node.run", kind: .text, fallback: "",
            help: "folder where the role writes NAME.metrics, the address of its metrics"),
        Setting(
            key: "telemetry.enabled", kind: .text, fallback: "true",
            help: "true: requests are measured and followed; false: neither, to see what that costs"
        ),
        Setting(
            key: "log.level", kind: .text, fallback: "info",
            help: "the least that is logged: trace debug info notice warning error critical"),
    ]
}

extension Setting {
    /// The groups at the top of a file, in order.
    static let groups = Set(all.compactMap { $0.key.split(separator: ".").first.map(String.init) })
        .sorted()

    /// - Throws: `invalidArgument` if there is none of that name.
    static func named(_ key: String, in place: String) throws(StoreError) -> Setting {
        if let setting = all.first(where: { $0.key == key }) { return setting }
        let known = all.map(\.key).joined(separator: " ")
        throw StoreError(
            .invalidArgument, "\(place): there is no setting '\(key)'; there are: \(known)")
    }
}

/// The settings of a process: command line over environment (`APUS_…`) over file over defaults. In
/// a file for several hosts the section of this host counts before what is said for all.
struct Settings: Sendable {
    private var layers: [(name: String, reader: ConfigReader)]
    /// The section of the file that counts; nil if it has none, or none for this host.
    let host: String?

    /// Reads the layers. Unknown keys, in the file or given with `--set`, are refused by name.
    ///
    /// - Parameters:
    ///   - host: which section of the file counts; nil: the one with this machine's name.
    ///   - role: what is to run here, which the host must be said to run; nil: only a client.
    init(
        file: String?, overrides: [String], host: String? = nil, role: ClusterRole? = nil
    ) async throws {
        var values: [String: ConfigContent] = [:]
        do {
            for override in overrides {
                guard let equals = override.firstIndex(of: "=") else {
                    throw ValidationError("--set takes KEY=VALUE, not '\(override)'")
                }
                let setting = try Setting.named(String(override[..<equals]), in: "--set")
                let text = String(override[override.index(after: equals)...])
                values[setting.key] = try Self.value(text, for: setting)
            }
        } catch let error as StoreError {
            throw ValidationError(error.message)
        }
        layers = [
            ("command line", Self.reader(values)),
            (
                "environment",
                ConfigReader(provider: EnvironmentVariablesProvider().prefixKeys(with: "apus"))
            ),
        ]
        if let file {
            let content = try SettingsFile(file)
            self.host = try content.section(of: host, machine: Self.machine, for: role)
            if let name = self.host {
                layers.append(
                    ("\(file), host \(name)", Self.reader(content.hosts[name] ?? [:])))
            }
            layers.append((file, Self.reader(content.common)))
            if let role { try checkAddress(of: role, hosts: content.hosts.count) }
        } else {
            self.host = nil
        }
        for group in ["om", "scm"] { try derivePlace(of: group) }
    }

    private static func reader(_ values: [String: ConfigContent]) -> ConfigReader {
        ConfigReader(
            provider: InMemoryProvider(
                values: Dictionary(
                    uniqueKeysWithValues: values.map { key, content in
                        (
                            AbsoluteConfigKey(key.split(separator: ".").map(String.init)),
                            ConfigValue(content, isSecret: false)
                        )
                    })))
    }

    /// The name that the machine gives itself.
    static var machine: String {
        var name = [CChar](repeating: 0, count: 256)
        gethostname(&name, name.count - 1)
        return String(
            decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Where a member listens that is told no place of its own: where the others look for it.
    private mutating func derivePlace(of group: String) throws(StoreError) {
        let members = try members(of: group)
        let name = text("\(group).id")
        let own = members.first { $0.name == name } ?? (members.count == 1 ? members[0] : nil)
        guard let own else { return }
        layers.append(
            (
                "\(group).addresses",
                Self.reader([
                    "\(group).host": .string(own.place.host),
                    "\(group).port": .int(own.place.port),
                ])
            ))
    }

    /// The members of the group of OMs or SCMs; empty where there is one alone, at `GROUP.host`.
    /// - Throws: `invalidArgument` if one is not written as it should be.
    func members(of group: String) throws(StoreError) -> [MemberAddress] {
        try MemberAddress.list(list("\(group).addresses"), in: "\(group).addresses")
    }

    /// What others could not reach is refused before anybody tries.
    private func checkAddress(of role: ClusterRole, hosts: Int) throws(StoreError) {
        guard hosts > 1 else { return }
        if role == .datanode, Self.isLoopback(text("datanode.host")) {
            throw StoreError(
                .invalidArgument,
                "datanode.host is \(text("datanode.host")), where the other hosts do not reach it; "
                    + "give this host's address in hosts.\(host ?? "HOST").datanode.host")
        }
        guard role == .om || role == .scm else { return }
        let group = role.group
        let members = try members(of: group)
        guard members.count > 1, !members.contains(where: { $0.name == text("\(group).id") }),
            lookup(try Setting.named("\(group).host", in: "")).source == "default"
        else { return }
        throw StoreError(
            .invalidArgument,
            "\(group).id is \(text("\(group).id")), which \(group).addresses does not have: "
                + members.map { "\($0.name)=\($0.place)" }.joined(separator: " ")
                + "; say in hosts.\(host ?? "HOST") which one this is")
    }

    /// Whether an address is only of the machine itself.
    static func isLoopback(_ host: String) -> Bool {
        host.hasPrefix("127.") || host == "localhost" || host == "::1"
    }

    private static func value(_ text: String, for setting: Setting) throws -> ConfigContent {
        switch setting.kind {
        case .text: return .string(text)
        case .list: return .stringArray(text.split(separator: ",").map(String.init))
        case .number:
            guard let number = Int(text) else {
                throw StoreError(
                    .invalidArgument, "\(setting.key) takes a whole number, not '\(text)'")
            }
            return .int(number)
        }
    }

    /// The value of a setting as text, and where it came from.
    func lookup(_ setting: Setting) -> (value: String, source: String) {
        let key = ConfigKey(setting.key)
        for (name, reader) in layers {
            switch setting.kind {
            case .text: if let value = reader.string(forKey: key) { return (value, name) }
            case .number: if let value = reader.int(forKey: key) { return (String(value), name) }
            case .list:
                if let value = reader.stringArray(forKey: key) {
                    return (value.joined(separator: ","), name)
                }
            }
        }
        return (setting.fallback, "default")
    }

    private func find(_ key: String) -> String {
        guard let setting = Setting.all.first(where: { $0.key == key }) else {
            preconditionFailure("no setting \(key)")
        }
        return lookup(setting).value
    }

    func text(_ key: String) -> String { find(key) }

    func list(_ key: String) -> [String] { find(key).split(separator: ",").map(String.init) }

    /// A number of at least 0. Throws if the environment gave something else.
    func number(_ key: String) throws -> Int {
        guard let number = Int(find(key)), number >= 0 else {
            throw StoreError(.invalidArgument, "\(key) takes a whole number, not '\(find(key))'")
        }
        return number
    }

    /// Throws, with the range, if it is no whole number in `range`.
    func number(_ key: String, in range: ClosedRange<Int>) throws -> Int {
        let number = try number(key)
        guard range.contains(number) else {
            throw StoreError(
                .invalidArgument,
                "\(key) is \(range.lowerBound) to \(range.upperBound), not \(number)")
        }
        return number
    }

    /// A number of milliseconds, at most a day, in nanoseconds. Throws if it is anything else.
    func nanoseconds(_ key: String) throws -> UInt64 {
        let milliseconds = try number(key, in: 0...86_400_000)
        return UInt64(milliseconds) * 1_000_000
    }

    /// A setting that is either on or off. Throws if it is anything but `true` or `false`.
    func flag(_ key: String) throws -> Bool {
        switch find(key) {
        case "true": return true
        case "false": return false
        case let other:
            throw StoreError(.invalidArgument, "\(key) is true or false, not '\(other)'")
        }
    }

    /// A text that must have been given.
    func required(_ key: String) throws -> String {
        let value = find(key)
        guard !value.isEmpty else {
            throw StoreError(.invalidArgument, "the setting \(key) is missing")
        }
        return value
    }

    /// Throws if it is none that buckets can be coded with.
    func replication() throws(StoreError) -> ReplicationConfig {
        let key = "cluster.replication"
        do {
            let replication = try ReplicationConfig(text(key))
            _ = try replication.erasureCoding()
            return replication
        } catch let error as StoreError {
            throw StoreError(error.code, "\(key): \(error.message)")
        } catch {
            throw StoreError(.invalidArgument, "\(key): \(error)")
        }
    }
}
