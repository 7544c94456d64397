import ArgumentParser
import Client
import Configuration
import Foundation
import Model
import SystemPackage

/// One setting of a role: its key, what it is for, and its value when nobody gives one.
struct Setting: Sendable {
    enum Kind: Sendable { case text, number, list }
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
            key: "om.metrics", kind: .text, fallback: "",
            help: "HOST:PORT of OM's metrics over HTTP; empty: none. Nobody is asked who they are"),
        Setting(
            key: "client.window-bytes", kind: .number,
            fallback: String(ClusterClient.windowBytes),
            help: "memory for bytes on their way to and from datanodes, of all requests of a "
                + "gateway; each takes a stripe at least"),
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
            key: "scm.close-delay-ms", kind: .number, fallback: "10000",
            help: "how long a container that gets no new blocks stays open for writers that were "
                + "given one"),
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

/// The settings of a process: command line over environment (`APUS_…`) over file over defaults.
struct Settings: Sendable {
    private let layers: [(name: String, reader: ConfigReader)]

    /// Reads the layers. Unknown keys, in the file or given with `--set`, are refused by name.
    init(file: String?, overrides: [String]) async throws {
        var layers: [(String, ConfigReader)] = []
        var values: [AbsoluteConfigKey: ConfigValue] = [:]
        do {
            for override in overrides {
                guard let equals = override.firstIndex(of: "=") else {
                    throw ValidationError("--set takes KEY=VALUE, not '\(override)'")
                }
                let key = String(override[..<equals])
                let setting = try Self.setting(key, in: "--set")
                let text = String(override[override.index(after: equals)...])
                values[AbsoluteConfigKey(key.split(separator: ".").map(String.init))] =
                    try Self.value(text, for: setting)
            }
        } catch let error as StoreError {
            throw ValidationError(error.message)
        }
        layers.append(
            ("command line", ConfigReader(provider: InMemoryProvider(values: values))))
        layers.append(
            (
                "environment",
                ConfigReader(provider: EnvironmentVariablesProvider().prefixKeys(with: "apus"))
            ))
        if let file {
            try Self.checkKeys(file)
            let provider = try await FileProvider<JSONSnapshot>(filePath: FilePath(file))
            layers.append((file, ConfigReader(provider: provider)))
        }
        self.layers = layers
    }

    private static func value(_ text: String, for setting: Setting) throws -> ConfigValue {
        switch setting.kind {
        case .text: return ConfigValue(.string(text), isSecret: false)
        case .list:
            let items = text.split(separator: ",").map(String.init)
            return ConfigValue(.stringArray(items), isSecret: false)
        case .number:
            guard let number = Int(text) else {
                throw StoreError(
                    .invalidArgument, "\(setting.key) takes a whole number, not '\(text)'")
            }
            return ConfigValue(.int(number), isSecret: false)
        }
    }

    private static func setting(_ key: String, in place: String) throws -> Setting {
        if let setting = Setting.all.first(where: { $0.key == key }) { return setting }
        let known = Setting.all.map(\.key).joined(separator: " ")
        throw StoreError(
            .invalidArgument, "\(place): there is no setting '\(key)'; there are: \(known)")
    }

    private static func checkKeys(_ file: String) throws {
        guard let data = FileManager.default.contents(atPath: file) else {
            let reason = String(cString: strerror(errno))
            throw StoreError(.io, "the settings file \(file) cannot be read: \(reason)")
        }
        let content: Any
        do {
            content = try JSONSerialization.jsonObject(with: data)
        } catch {
            throw StoreError(
                .invalidArgument, "\(file) cannot be read as JSON: \(error.localizedDescription)")
        }
        guard let groups = content as? [String: Any] else {
            throw StoreError(.invalidArgument, "\(file) must hold a JSON object of groups")
        }
        for (group, value) in groups {
            guard let entries = value as? [String: Any] else {
                throw StoreError(.invalidArgument, "\(file): '\(group)' must be an object")
            }
            for (name, value) in entries {
                let setting = try setting("\(group).\(name)", in: file)
                let fits =
                    switch setting.kind {
                    case .text: value is String
                    case .number: value is NSNumber
                    case .list: value is [String]
                    }
                guard fits else {
                    throw StoreError(
                        .invalidArgument, "\(file): \(setting.key) must be a \(setting.kind)")
                }
            }
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

    /// A number of milliseconds, at most a day, in nanoseconds. Throws if it is anything else.
    func nanoseconds(_ key: String) throws -> UInt64 {
        let milliseconds = try number(key)
        guard milliseconds <= 86_400_000 else {
            throw StoreError(
                .invalidArgument, "\(key) is 0 to 86400000, a day, not \(milliseconds)")
        }
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
