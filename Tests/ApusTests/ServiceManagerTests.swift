import Foundation
import Model
import Testing

@testable import apus

/// A manager's socket, as systemd has one.
private final class ManagerSocket {
    let descriptor: Int32
    let name: String

    /// - Parameter name: a path, or an abstract name behind `@`.
    init(_ name: String) {
        self.name = name
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var bytes = Array(name.utf8)
        let isAbstract = bytes[0] == UInt8(ascii: "@")
        if isAbstract { bytes[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count + (isAbstract ? 0 : 1))
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
        }
        precondition(bound == 0, "the test's socket \(name) can be had")
    }

    deinit {
        close(descriptor)
        if name.hasPrefix("/") { unlink(name) }
    }

    /// The next message; waits for it.
    func message() -> String {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = recv(descriptor, &bytes, bytes.count, 0)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }
}

@Suite("The service manager")
struct ServiceManagerTests {
    private static func name(_ prefix: String) -> String {
        "\(prefix)apus-test-\(UUID().uuidString.prefix(8))"
    }

    @Test("is told over a path what systemd understands", arguments: ["/tmp/", "@"])
    func lines(prefix: String) {
        let socket = ManagerSocket(Self.name(prefix))
        let manager = ServiceManager(["NOTIFY_SOCKET": socket.name])
        manager.ready("serving on port 9862")
        #expect(socket.message() == "READY=1\nSTATUS=serving on port 9862")
        manager.stopping()
        #expect(socket.message() == "STOPPING=1\nSTATUS=stopping")
    }

    @Test("that is not there is told nothing, and that is no error")
    func absent() throws {
        try ServiceManager([:]).send(["READY=1"])
        try ServiceManager(["NOTIFY_SOCKET": ""]).send(["READY=1"])
    }

    @Test("whose socket is gone, or cannot be, is an error that names it")
    func refusals() {
        #expect(throws: StoreError.self) {
            try ServiceManager(["NOTIFY_SOCKET": "/tmp/\(UUID())"]).send(["READY=1"])
        }
        for name in ["notify", "/" + String(repeating: "a", count: 200)] {
            let error = #expect(throws: StoreError.self) {
                try ServiceManager(["NOTIFY_SOCKET": name]).send(["READY=1"])
            }
            #expect(error?.code == .invalidArgument)
            #expect(error?.message.contains("a path or @NAME") == true)
        }
    }

    @Test("that reads nothing holds nobody up")
    func fullQueue() {
        let socket = ManagerSocket(Self.name("@"))
        let manager = ServiceManager(["NOTIFY_SOCKET": socket.name])
        var failure: StoreError?
        // The kernel keeps some messages for a socket (net.unix.max_dgram_qlen), not all of these.
        for _ in 0..<100_000 where failure == nil {
            do { try manager.send(["WATCHDOG=1"]) } catch { failure = error }
        }
        #expect(failure?.code == .io)
    }

    @Test("has a watchdog if it gives an interval to this process")
    func watchdog() {
        func interval(_ environment: [String: String]) -> Duration? {
            ServiceManager(environment).watchdog
        }
        #expect(interval(["WATCHDOG_USEC": "60000000"]) == .seconds(60))
        #expect(
            interval(["WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "\(getpid())"]) == .seconds(60))
        #expect(interval(["WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"]) == nil)
        #expect(interval(["WATCHDOG_USEC": "soon"]) == nil)
        #expect(interval([:]) == nil)
    }
}
