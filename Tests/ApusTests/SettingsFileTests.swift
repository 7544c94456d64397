import Foundation
import Model
import Testing

@testable import apus

@Suite("The settings of a cluster")
struct SettingsFileTests {
    private static let cluster = """
        {"cluster": {"id": "prod", "replication": "xor-2-1-1024k"},
         "om": {"addresses": ["om1=10.0.0.1:9862", "om2=10.0.0.2:9872"], "directory": "/om"},
         "datanode": {"port": 9000, "rack": "/all"},
         "hosts": {
           "host1": {"om": {"id": "om1"}, "datanode": {"host": "10.0.0.1", "rack": "/r1"}},
           "host2": {"om": {"id": "om2"}, "s3": {}},
           "host3.example.com": {"datanode": {"scrub": {"enabled": "false"}, "volumes": ["/a"]}}}}
        """

    /// The text as a file, which is gone when `body` returns.
    private func withFile<R>(_ text: String, _ body: (String) async throws -> R) async throws -> R {
        let path = "/tmp/apus-settings-\(UUID()).json"
        try Data(text.utf8).write(to: URL(fileURLWithPath: path))
        defer { unlink(path) }
        return try await body(path)
    }

    private func error(
        _ text: String, host: String? = nil, role: ClusterRole? = nil
    ) async throws -> String {
        try await withFile(text) { path in
            do {
                _ = try await Settings(file: path, overrides: [], host: host, role: role)
                return "none"
            } catch let error as StoreError {
                return error.message.replacingOccurrences(of: path, with: "FILE")
            }
        }
    }

    @Test("what a host says counts before what is said for all, and the source names it")
    func layers() async throws {
        try await withFile(Self.cluster) { path in
            let settings = try await Settings(file: path, overrides: [], host: "host1")
            func found(_ key: String) throws -> [String] {
                let (value, source) = settings.lookup(try Setting.named(key, in: ""))
                return [value, source.replacingOccurrences(of: path, with: "FILE")]
            }
            #expect(try found("datanode.rack") == ["/r1", "FILE, host host1"])
            #expect(try found("datanode.port") == ["9000", "FILE"])
            #expect(try found("cluster.replication") == ["xor-2-1-1024k", "FILE"])
            #expect(try found("s3.port") == ["9878", "default"])
            let above = try await Settings(
                file: path, overrides: ["datanode.rack=/r9"], host: "host1")
            #expect(above.text("datanode.rack") == "/r9")
        }
    }

    @Test("a member listens where the list of all says, unless it is told otherwise")
    func ownPlace() async throws {
        try await withFile(Self.cluster) { path in
            let second = try await Settings(file: path, overrides: [], host: "host2")
            #expect(second.text("om.host") == "10.0.0.2" && second.text("om.port") == "9872")
            #expect(
                second.lookup(try Setting.named("om.port", in: "")).source == "om.addresses")
            let told = try await Settings(
                file: path, overrides: ["om.host=0.0.0.0"], host: "host2")
            #expect(told.text("om.host") == "0.0.0.0" && told.text("om.port") == "9872")
        }
    }

    @Test("the only member of a list is where clients go, whichever it is")
    func onlyMember() async throws {
        try await withFile(#"{"om": {"addresses": ["om7=h:1"]}}"#) { path in
            let settings = try await Settings(file: path, overrides: [])
            #expect(settings.text("om.host") == "h" && settings.text("om.port") == "1")
        }
    }

    @Test("a host is found by its full name, or by the part before the first dot")
    func names() throws {
        let file = try SettingsFile("FILE", Data(Self.cluster.utf8))
        #expect(try file.section(of: nil, machine: "host1", for: .om) == "host1")
        #expect(try file.section(of: nil, machine: "host1.example.com", for: .om) == "host1")
        #expect(
            try file.section(of: nil, machine: "host3", for: .datanode) == "host3.example.com")
        #expect(try file.section(of: nil, machine: "laptop", for: nil) == nil)
        #expect(try file.section(of: "host2", machine: "laptop", for: .om) == "host2")
        // What is given is meant as it is.
        #expect(throws: StoreError.self) {
            try file.section(of: "host3", machine: "laptop", for: .datanode)
        }
    }

    @Test("a group within a group is read, with dots in its name or as an object")
    func nested() async throws {
        for text in [
            #"{"datanode": {"scrub": {"enabled": "false"}}}"#,
            #"{"datanode": {"scrub.enabled": "false"}}"#,
        ] {
            try await withFile(text) { path in
                let settings = try await Settings(file: path, overrides: [])
                #expect(settings.text("datanode.scrub.enabled") == "false")
            }
        }
    }

    @Test("the roles of a host are those whose groups it has, empty ones too")
    func roles() throws {
        let file = try SettingsFile("FILE", Data(Self.cluster.utf8))
        #expect(file.roles(of: "host1") == [.om, .datanode])
        #expect(file.roles(of: "host2") == [.om, .s3gateway])
        #expect(file.roles(of: "host9").isEmpty)
    }

    @Test("what a role is not to run on is told with what runs there")
    func wrongHost() async throws {
        #expect(
            try await error(Self.cluster, host: "host9", role: .om)
                == "FILE has no host host9; it has: host1 host2 host3.example.com. Give one of these"
        )
        #expect(
            try await error(Self.cluster, host: "host1", role: .scm)
                == "FILE: host host1 runs no scm, but om datanode; hosts.host1 would need a group 'scm'"
        )
        #expect(
            try await error(Self.cluster, host: "host3.example.com", role: .datanode)
                .hasPrefix("datanode.host is 127.0.0.1, where the other hosts do not reach it"))
        #expect(
            try await error(#"{"om": {}}"#, host: "host1")
                == "FILE has no hosts, so there is no host1 in it; leave --host out")
        let strange = Self.cluster.replacingOccurrences(of: #""id": "om2""#, with: #""id": "om7""#)
        #expect(
            try await error(strange, host: "host2", role: .om).hasPrefix(
                "om.id is om7, which om.addresses does not have: om1=10.0.0.1:9862 om2="))
    }

    @Test(
        "what cannot be right is refused by name, with what would be",
        arguments: [
            (#"{"om": {"port": "9862"}}"#, "FILE: om.port must be a whole number"),
            (#"{"om": {"port": 1.5}}"#, "FILE: om.port must be a whole number"),
            (#"{"om": {"port": true}}"#, "FILE: om.port must be a whole number"),
            (#"{"om": {"host": null}}"#, "FILE: om.host must be a text, in quotes"),
            (#"{"om": {"host": 5}}"#, "FILE: om.host must be a text, in quotes"),
            (
                #"{"datanode": {"volumes": "/a"}}"#,
                #"FILE: datanode.volumes must be a list of texts, as ["a", "b"]"#
            ),
            (#"{"om": 3}"#, "FILE: 'om' must be an object"),
            ("[]", "FILE must hold a JSON object of groups"),
            (#"{"om": {"prot": 1}}"#, "FILE: there is no setting 'om.prot'; there are: "),
            (
                #"{"hosts": {"h": {"om": {"prot": 1}}}}"#,
                "FILE: hosts.h: there is no setting 'om.prot'; there are: "
            ),
            (
                #"{"omm": {}}"#,
                "FILE: there is no group of settings 'omm'; there are: client cluster datanode log "
                    + "node om s3 scm telemetry"
            ),
            (
                #"{"hosts": {"h": {"s3gateway": {}}}}"#,
                "FILE: hosts.h: there is no group of settings"
            ),
            (#"{"datanode": {"srub": {}}}"#, "FILE: there is no setting 'datanode.srub'"),
            (#"{"hosts": []}"#, "FILE: 'hosts' is an object with a section for each host"),
            (#"{"hosts": {}}"#, "FILE: 'hosts' is an object with a section for each host"),
            (#"{"hosts": {"h": 1}}"#, "FILE: hosts.h must be an object of groups"),
            (
                #"{"hosts": {"h": {"cluster": {"id": "x"}}}}"#,
                "FILE: hosts.h: cluster.id is the same for all hosts"
            ),
            (
                #"{"hosts": {"h": {"om": {"addresses": []}}}}"#,
                "FILE: hosts.h: om.addresses is the same for all hosts"
            ),
            (
                #"{"om": {"addresses": ["om1"]}}"#,
                "om.addresses takes om1=HOST:PORT,om2=…, not 'om1'"
            ),
            (
                #"{"om": {"addresses": ["first=h:1"]}}"#,
                "'first' names no member: om and a number does, as om1"
            ),
            (
                #"{"scm": {"addresses": ["scm1=h:1", "scm1=h:2"]}}"#,
                "scm.addresses: scm1=h:1 and scm1=h:2: members have names and addresses of their own"
            ),
            (
                #"{"scm": {"addresses": ["scm1=h"]}}"#,
                "scm.addresses: 'h' is no address: HOST:PORT is"
            ),
            ("{", "FILE cannot be read as JSON: "),
        ])
    func refusals(text: String, expected: String) async throws {
        #expect(try await error(text).hasPrefix(expected))
    }
}
