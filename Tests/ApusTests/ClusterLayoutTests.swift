import Configuration
import Foundation
import Model
import Testing

@testable import apus

@Suite("What a cluster under one directory begins with")
struct ClusterLayoutTests {
    /// A layout of a directory with `files`, empty ones, which is gone when `body` returns.
    private func withLayout(
        _ files: [String], oms: Int = 1, _ body: (ClusterLayout) throws -> Void
    ) throws {
        let directory = "/tmp/apus-layout-\(UUID())"
        defer { try? FileManager.default.removeItem(atPath: directory) }
        for file in files {
            let path = URL(fileURLWithPath: "\(directory)/\(file)")
            try FileManager.default.createDirectory(
                at: path.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data().write(to: path)
        }
        try body(
            ClusterLayout(
                directory: directory, oms: oms, scms: 1, datanodes: 5, volumesPerDatanode: 1,
                replication: "rs-3-2-1024k", s3: "127.0.0.1:0"))
    }

    @Test("a first start that broke after SCM had run and before OM had goes on")
    func cutOff() throws {
        try withLayout(["scm1/metadata.db", "om1/member.id", "dn1/datanode.id"]) {
            (layout: ClusterLayout) throws in
            #expect(try layout.isThere("om", founders: ["om1"]))
            #expect(try layout.joining(["om1"], "om") == [])
            // Asked for more than it was begun with: they join.
            #expect(try layout.joining(["om1", "om2", "om3"], "om") == ["om2", "om3"])
        }
        try withLayout(["scm1/member.id", "om1/member.id"]) { (layout: ClusterLayout) throws in
            #expect(try !layout.isThere("om", founders: ["om1"]), "nothing has run yet")
        }
    }

    @Test("a group whose files are missing beside others that have run is not begun anew")
    func missing() throws {
        try withLayout(["scm1/metadata.db", "dn1/datanode.id"]) { (layout: ClusterLayout) throws in
            let error = #expect(throws: StoreError.self) {
                try layout.isThere("om", founders: [])
            }
            #expect(error?.message.contains("has scm1, dn1, but no files of any om") == true)
        }
        try withLayout(["scm1/metadata.db", "om1/member.id", "om3/member.id"], oms: 3) {
            (layout: ClusterLayout) throws in
            let error = #expect(throws: StoreError.self) {
                try layout.isThere("om", founders: ["om1", "om2", "om3"])
            }
            #expect(error?.message.contains("has scm1, but no files of om2: bring") == true)
        }
        try withLayout(["om1/member.id", "om3/member.id"]) { (layout: ClusterLayout) throws in
            #expect(throws: StoreError.self) { try layout.joining(["om1"], "om") }
        }
    }

    @Test("the port of a role is one that can be listened at, and is kept")
    func ports() throws {
        try withLayout([]) { (layout: ClusterLayout) throws in
            try layout.write()
            let before = try Data(contentsOf: URL(fileURLWithPath: layout.file("om1")))
            try layout.write()
            #expect(try Data(contentsOf: URL(fileURLWithPath: layout.file("om1"))) == before)
            let settings = try SettingsFile(layout.file("om1"))
            guard case .int(let port)? = settings.common["om.port"] else {
                Issue.record("om1 has no port")
                return
            }
            let listener = try CheckSockets.listen(at: HostPort(host: "127.0.0.1", port: port))
            defer { close(listener) }
            #expect(CheckSockets.port(of: listener) == port)
            // What another has taken is given up.
            try layout.write()
            #expect(try Data(contentsOf: URL(fileURLWithPath: layout.file("om1"))) != before)
        }
    }
}
