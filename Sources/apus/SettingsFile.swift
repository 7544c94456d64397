import Configuration
import Foundation
import Model

/// A file of settings: groups for all roles, and sections that single hosts have over them.
///
///     { "cluster": {"id": "prod"}, "om": {"addresses": ["om1=10.0.0.1:9862"]},
///       "hosts": {"host1": {"om": {"id": "om1"}, "datanode": {"volumes": ["/disks/1"]}}} }
///
/// A host runs the roles whose groups are in its section (`s3` is the S3 gateway's). A file without
/// `hosts` is of one role, or of a machine that has all.
struct SettingsFile: Sendable {
    /// Where the settings of a cluster lie that was installed from a package.
    static let standardPath = "/etc/apus/cluster.json"

    let path: String
    /// By key; what counts for all hosts.
    private(set) var common: [String: ConfigContent] = [:]
    /// By host, then by key; empty where the file has no hosts.
    private(set) var hosts: [String: [String: ConfigContent]] = [:]

    /// Reads and checks the file. Throws what is wrong with it, by name.
    init(_ path: String) throws {
        guard let data = FileManager.default.contents(atPath: path) else {
            let reason = String(cString: strerror(errno))
            throw StoreError(.io, "the settings file \(path) cannot be read: \(reason)")
        }
        try self.init(path, data)
    }

    init(_ path: String, _ data: Data) throws {
        self.path = path
        let content: JSONContent
        do {
            content = try JSONDecoder().decode(JSONContent.self, from: data)
        } catch {
            throw StoreError(
                .invalidArgument, "\(path) cannot be read as JSON: \(Self.reason(error))")
        }
        guard case .object(var groups) = content else {
            throw StoreError(.invalidArgument, "\(path) must hold a JSON object of groups")
        }
        let sections = groups.removeValue(forKey: "hosts")
        common = try Self.settings(groups, in: path)
        guard let sections else { return }
        guard case .object(let sections) = sections, !sections.isEmpty else {
            throw StoreError(
                .invalidArgument,
                "\(path): 'hosts' is an object with a section for each host, as "
                    + #"{"host1": {"datanode": {"volumes": ["/disks/1"]}}}"#)
        }
        for (host, section) in sections {
            let place = "\(path): hosts.\(host)"
            guard case .object(let groups) = section else {
                throw StoreError(.invalidArgument, "\(place) must be an object of groups")
            }
            let settings = try Self.settings(groups, in: place)
            if let key = settings.keys.sorted().first(where: Self.isOfAll) {
                throw StoreError(
                    .invalidArgument,
                    "\(place): \(key) is the same for all hosts; it belongs to the top of the file")
            }
            hosts[host] = settings
        }
    }

    /// Whether a setting must not differ between hosts.
    private static func isOfAll(_ key: String) -> Bool {
        key.hasPrefix("cluster.") || key == "om.addresses" || key == "scm.addresses"
    }

    private static func settings(
        _ groups: [String: JSONContent], in place: String
    ) throws -> [String: ConfigContent] {
        var found: [String: ConfigContent] = [:]
        for (group, value) in groups {
            try read(group, value, in: place, &found)
        }
        return found
    }

    /// Reads one group; those within it too, as `scrub` of `datanode`.
    private static func read(
        _ group: String, _ value: JSONContent, in place: String,
        _ found: inout [String: ConfigContent]
    ) throws {
        guard case .object(let entries) = value else {
            throw StoreError(.invalidArgument, "\(place): '\(group)' must be an object")
        }
        for (name, value) in entries {
            let key = "\(group).\(name)"
            if case .object = value, Setting.all.contains(where: { $0.key.hasPrefix(key + ".") }) {
                try read(key, value, in: place, &found)
                continue
            }
            let setting = try Setting.named(key, in: place)
            switch (setting.kind, value) {
            case (.text, .text(let text)): found[key] = .string(text)
            case (.number, .number(let number)): found[key] = .int(number)
            case (.list, .list(let items)): found[key] = .stringArray(items)
            default:
                throw StoreError(
                    .invalidArgument, "\(place): \(key) must be \(setting.kind.shape)")
            }
        }
        guard entries.isEmpty else { return }
        guard Setting.all.contains(where: { $0.key.hasPrefix(group + ".") }) else {
            throw StoreError(
                .invalidArgument,
                "\(place): there is no group of settings '\(group)'; there are: "
                    + Setting.groups.joined(separator: " "))
        }
        // A group without settings says that the host runs the role.
        found[group] = .bool(true)
    }

    private static func reason(_ error: any Error) -> String {
        guard case .dataCorrupted(let context) = error as? DecodingError else {
            return error.localizedDescription
        }
        let cause = (context.underlyingError as NSError?)?.userInfo["NSDebugDescription"] as? String
        return cause ?? context.debugDescription
    }

    // MARK: Hosts

    /// The roles that a host runs.
    func roles(of host: String) -> [ClusterRole] {
        let groups = Set((hosts[host] ?? [:]).keys.compactMap { $0.split(separator: ".").first })
        return ClusterRole.allCases.filter { groups.contains(Substring($0.group)) }
    }

    /// The section that counts here; nil where the file has no hosts, or, if no role is to run, not
    /// this one.
    /// - Parameters:
    ///   - given: the host's name; nil: the machine's, in full or up to the first dot.
    ///   - role: what is to run here; nil: only a client.
    /// - Throws: `invalidArgument` if the host is not there or does not run the role.
    func section(
        of given: String?, machine: String, for role: ClusterRole?
    ) throws(StoreError) -> String? {
        guard !hosts.isEmpty else {
            guard let given else { return nil }
            throw StoreError(
                .invalidArgument,
                "\(path) has no hosts, so there is no \(given) in it; leave --host out")
        }
        let name = given ?? machine
        let short = { (name: String) in name.prefix { $0 != "." } }
        let alike = hosts.keys.filter { short($0) == short(name) }
        let found =
            hosts[name] != nil ? name : given == nil && alike.count == 1 ? alike.first : nil
        let known = hosts.keys.sorted().joined(separator: " ")
        guard let found else {
            guard given != nil || role != nil else { return nil }
            let whose = given == nil ? "\(name) (this machine's name)" : name
            throw StoreError(
                .invalidArgument,
                "\(path) has no host \(whose); it has: \(known). "
                    + (given == nil
                        ? "Say which one this is with --host, or add a section to it"
                        : "Give one of these"))
        }
        if let role, !roles(of: found).contains(role) {
            let there = roles(of: found).map(\.rawValue).joined(separator: " ")
            throw StoreError(
                .invalidArgument,
                "\(path): host \(found) runs no \(role.rawValue), but \(there.isEmpty ? "nothing" : there)"
                    + "; hosts.\(found) would need a group '\(role.group)'")
        }
        return found
    }
}

/// JSON as settings are written in it.
private enum JSONContent: Decodable {
    case text(String)
    case number(Int)
    case list([String])
    case object([String: JSONContent])
    /// What no setting is: null, true, 1.5, a list of lists.
    case other

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let text = try? container.decode(String.self) {
            self = .text(text)
        } else if (try? container.decode(Bool.self)) != nil {
            self = .other
        } else if let number = try? container.decode(Int.self) {
            self = .number(number)
        } else if let list = try? container.decode([String].self) {
            self = .list(list)
        } else if let object = try? container.decode([String: JSONContent].self) {
            self = .object(object)
        } else {
            self = .other
        }
    }
}
