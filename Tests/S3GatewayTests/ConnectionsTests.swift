import Eventually
import Glibc
import Model
import Testing

@testable import S3Gateway

/// A socket to the gateway that says what it is told to and nothing else.
private final class IdleSocket {
    fileprivate let descriptor: Int32

    init(port: Int, receiveBuffer: Int32? = nil) {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        if var size = receiveBuffer {
            setsockopt(
                descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port).bigEndian)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        precondition(connected == 0, "the gateway listens")
    }

    deinit { close(descriptor) }

    func say(_ bytes: [UInt8]) { _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) }

    /// Whether something has come from the other end that is not taken yet.
    var isAnswered: Bool {
        var byte: UInt8 = 0
        return recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT | MSG_PEEK)) > 0
    }

    /// Whether the other end has closed, looked at without waiting.
    var hasEnded: Bool {
        var byte: UInt8 = 0
        let count = recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT | MSG_PEEK))
        return count == 0 || (count < 0 && errno != EAGAIN)
    }
}

@Suite("Connections of the gateway")
struct ConnectionsTests {
    private func until(_ holds: () -> Bool) async throws {
        try await eventually("what the gateway does with its connections", holds)
    }

    @Test("idle ones give way to those that come, the longest idle first")
    func eviction() async throws {
        var limits = S3Configuration.Limits()
        limits.connections = 4
        try await GatewayFixture.run(limits: limits) { fixture in
            let first = IdleSocket(port: fixture.port)
            let others = (0..<3).map { _ in IdleSocket(port: fixture.port) }
            let more = (0..<20).map { _ in IdleSocket(port: fixture.port) }
            try await until { first.hasEnded }
            // And whoever asks for something is answered.
            for _ in 0..<5 {
                let client = RawClient(port: fixture.port)
                #expect(try await client.request("GET", "/").status == 200)
            }
            try await until { (others + more).filter { !$0.hasEnded }.count <= 4 }
        }
    }

    @Test("with requests under way stay; one more is told to come later")
    func busy() async throws {
        var limits = S3Configuration.Limits()
        limits.connections = 2
        try await GatewayFixture.run(limits: limits) { fixture in
            let client = RawClient(port: fixture.port)
            #expect(try await client.request("PUT", "/bucket").status == 200)
            let put = try client.signed(
                "PUT", "/bucket/key", headers: ["expect": "100-continue"], body: [1, 2, 3])
            var busy: [IdleSocket] = []
            while busy.count < 2 {
                // Until its body is wanted it is idle, and may give way.
                let socket = IdleSocket(port: fixture.port)
                socket.say(Array(put.dropLast(3)))
                try await until { socket.isAnswered || socket.hasEnded }
                if socket.isAnswered { busy.append(socket) }
            }
            #expect(try await client.request("GET", "/").status == 503)
            #expect(busy.allSatisfy { !$0.hasEnded })
        }
    }

    @Test("a head that comes too slowly ends its connection")
    func slowHead() async throws {
        var limits = S3Configuration.Limits()
        limits.headSeconds = 1
        try await GatewayFixture.run(limits: limits) { fixture in
            let slow = IdleSocket(port: fixture.port)
            // Something comes all the time.
            slow.say(Array("GET / HTTP/1.1\r\n".utf8))
            try await until {
                slow.say(Array("x".utf8))
                return slow.hasEnded
            }
        }
    }

    @Test("a client that takes nothing of its answer is left")
    func stalled() async throws {
        var limits = S3Configuration.Limits()
        limits.stallSeconds = 1
        try await GatewayFixture.run(limits: limits) { fixture in
            let client = RawClient(port: fixture.port)
            _ = try await client.request("PUT", "/bucket")
            let body = [UInt8](repeating: 1, count: 16 << 20)
            #expect(try await client.request("PUT", "/bucket/key", body: body).status == 200)
            let stalled = IdleSocket(port: fixture.port, receiveBuffer: 4096)
            stalled.say(try client.signed("GET", "/bucket/key"))
            // Its end comes behind what it did not take: seen by what it says being refused.
            try await until { stalled.isReset }
        }
    }
}

extension IdleSocket {
    /// Whether the other end is gone, though not all that it sent was taken.
    fileprivate var isReset: Bool {
        send(descriptor, "x", 1, Int32(MSG_NOSIGNAL | MSG_DONTWAIT)) < 0 && errno != EAGAIN
    }
}
