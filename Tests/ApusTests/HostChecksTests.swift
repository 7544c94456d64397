import Foundation
import Model
import Testing

@testable import apus

@Suite("What a host is looked at for")
struct HostChecksTests {
    @Test("a port's holder is found by the socket that listens, not by those that are connected")
    func listeningSockets() {
        let table = """
              sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
               0: 0100007F:2686 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 ffff 100
               1: 0100007F:2686 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 ffff 100
               2: 00000000:2687 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4713 1 ffff 100
            """
        #expect(PortHolder.inodes(port: 9862, in: table) == ["4711"])
        #expect(PortHolder.inodes(port: 9863, in: table) == ["4713"])
        #expect(PortHolder.inodes(port: 1, in: table).isEmpty)
    }

    @Test("a role of this program is told from others of it, and from other programs")
    func holders() {
        #expect(PortHolder(pid: 7, command: ["/usr/bin/apus", "om"]).runs(.om))
        #expect(!PortHolder(pid: 7, command: ["/usr/bin/apus", "scm"]).runs(.om))
        #expect(!PortHolder(pid: 7, command: ["nginx", "om"]).runs(.om))
        #expect(PortHolder(pid: 7, command: ["nginx", "-g", "x"]).text == "nginx -g (pid 7)")
        #expect(PortHolder(pid: 7, command: []).text == "a process (pid 7)")
    }

    @Test("this process is found as the holder of its own port, and the port as taken")
    func own() throws {
        let listener = try CheckSockets.listen(at: HostPort(host: "127.0.0.1", port: 0))
        defer { close(listener) }
        let port = try #require(CheckSockets.port(of: listener))
        #expect(PortHolder.find(port: port)?.pid == getpid())
        let failure = #expect(throws: CheckSockets.Failure.self) {
            try CheckSockets.listen(at: HostPort(host: "127.0.0.1", port: port))
        }
        #expect(failure?.code == EADDRINUSE)
        close(
            try CheckSockets.connect(
                to: HostPort(host: "127.0.0.1", port: port), milliseconds: 2000))
    }

    @Test("an address of nobody here is told from one that is taken")
    func strangeAddress() {
        let failure = #expect(throws: CheckSockets.Failure.self) {
            try CheckSockets.listen(at: HostPort(host: "192.0.2.1", port: 9))
        }
        #expect(failure?.code == EADDRNOTAVAIL)
    }

    @Test("a directory that another user works in is refused to root, with the command to use")
    func owners() throws {
        try #require(geteuid() == 0 || getuid() != 0)
        let folder = "/tmp/apus-owner-\(UUID())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        #expect(DirectoryOwner.refusal(of: folder, for: geteuid()) == nil)
        guard geteuid() == 0 else { return }
        try Data().write(to: URL(fileURLWithPath: folder + "/lock"))
        chown(folder + "/lock", 65534, 65534)
        chown(folder, 65534, 65534)
        let reason = DirectoryOwner.refusal(of: folder, for: 0)
        #expect(reason?.contains("runuser -u \(DirectoryOwner.name(of: 65534)) -- apus") == true)
        // A mount that belongs to somebody, and in which nobody works, is nobody's concern.
        unlink(folder + "/lock")
        #expect(DirectoryOwner.refusal(of: folder, for: 0) == nil)
    }
}
