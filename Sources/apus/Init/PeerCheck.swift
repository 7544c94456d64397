import Foundation
import Model
import Synchronization

/// Whether hosts reach each other, with the same settings and the same time.
///
/// Each host that is looked at listens where its roles will (unless they run and do) and at one
/// port more, over which hosts tell each other, in a line of JSON each way, who they are, what time
/// they have, and which ports of the other they have reached. So each learns both directions. A host
/// is done with another when both have reached all, and know it of each other.
final class PeerCheck: Sendable {
    enum Limits {
        /// Port of the exchange, unless another is given.
        static let port = 9861
        /// Of time between hosts. Signatures of S3 allow minutes; what is to be compared in logs of
        /// two hosts wants less.
        static let clockMilliseconds: Int64 = 500
        /// Between rounds.
        static let pause: TimeInterval = 0.5
    }

    /// What hosts tell each other.
    struct Message: Codable, Sendable {
        static let currentVersion = 1
        var version = Message.currentVersion
        var cluster, host: String
        /// Of the settings file.
        var digest: String
        var milliseconds: Int64
        /// Of the ports of the one that it is sent to: empty if it was reached, else why not.
        var reached: [String: String]
    }

    /// Another host, as this one knows it.
    struct Peer: Sendable {
        var name, address: String
        /// Ports that others must reach, with what listens there.
        var ports: [Int: String]
        /// What came of each attempt; empty text: reached.
        var outward: [Int: String] = [:]
        /// What the other said of the ports here.
        var inward: [String: String]?
        /// Why there is no exchange.
        var silence: String? = "nothing was heard of it"
        /// How much later it is there, and how exact that is.
        var clock: (offset: Int64, error: Int64)?
        var digest, cluster: String?
        /// It knows what was found here, when all was well.
        var isTold = false

        var reachesAll: Bool {
            outward.count == ports.count && outward.values.allSatisfy(\.isEmpty)
        }
        func isReached(at ports: [Int]) -> Bool {
            ports.allSatisfy { inward?["\($0)"] == "" }
        }
    }

    private let own: Message
    private let port: Int
    /// Ports of this host that others must reach.
    private let ownPorts: [Int: String]
    private let peers: Mutex<[String: Peer]>
    private let listeners: [Int32]
    private let exchange: Int32
    private let isOver = Atomic<Bool>(false)

    /// Begins to listen. Ports that are taken are left to those that have them.
    /// - Throws: `io` if the exchange's port cannot be had.
    init(
        _ place: HostPlace, others: [HostPlace], digest: String, port: Int
    ) throws {
        self.port = port
        own = Message(
            cluster: place.cluster, host: place.name, digest: digest, milliseconds: 0, reached: [:])
        func outer(_ place: HostPlace) throws -> [HostPlace.Listener] {
            try place.listeners().filter { !$0.isMetrics && !Settings.isLoopback($0.place.host) }
        }
        var known: [String: Peer] = [:]
        for other in others {
            guard let address = try other.address() else { continue }
            let ports = try outer(other).map { ($0.place.port, $0.what) }
            known[other.name] = Peer(
                name: other.name, address: address,
                ports: Dictionary(ports, uniquingKeysWith: { $1 }))
        }
        peers = Mutex(known)
        let listening = try outer(place)
        ownPorts = Dictionary(
            listening.map { ($0.place.port, $0.what) }, uniquingKeysWith: { $1 })
        listeners = listening.compactMap { try? CheckSockets.listen(at: $0.place) }
        let here = HostPort(host: try place.address() ?? "0.0.0.0", port: port)
        do throws(CheckSockets.Failure) { exchange = try CheckSockets.listen(at: here) } catch {
            for listener in listeners { close(listener) }
            throw StoreError(
                .io, "cannot listen at \(here), where the hosts talk to each other: \(error.text)")
        }
    }

    deinit {
        for listener in listeners + [exchange] { close(listener) }
    }

    /// Tries until all is well, or for `seconds`. Blocks its thread.
    func run(seconds: Double, progress: @escaping @Sendable (String) -> Void) -> [CheckFinding] {
        let deadline = Date(timeIntervalSinceNow: seconds)
        let group = DispatchGroup()
        for listener in listeners { inThread(group) { self.welcome(listener) } }
        inThread(group) { self.answer() }
        let working = DispatchGroup()
        for name in peers.withLock({ Array($0.keys) }) {
            inThread(working) { self.look(at: name, until: deadline) }
        }
        while working.wait(timeout: .now() + 1) == .timedOut {
            let open = peers.withLock { peers in peers.values.filter { !isDone($0) }.map(\.name) }
            progress("waiting for \(open.sorted().joined(separator: " "))")
        }
        isOver.store(true, ordering: .relaxed)
        group.wait()
        return peers.withLock { $0.values.sorted { $0.name < $1.name } }.flatMap(findings)
    }

    private func inThread(_ group: DispatchGroup, _ body: @escaping @Sendable () -> Void) {
        group.enter()
        Thread.detachNewThread {
            body()
            group.leave()
        }
    }

    private func isDone(_ peer: Peer) -> Bool {
        peer.reachesAll && peer.isReached(at: Array(ownPorts.keys)) && peer.isTold
    }

    // MARK: Being looked at

    /// Takes connections, so that others see that they can be made.
    private func welcome(_ listener: Int32) {
        while !isOver.load(ordering: .relaxed) {
            if let descriptor = CheckSockets.accept(listener, milliseconds: 200) {
                close(descriptor)
            }
        }
    }

    private func answer() {
        while !isOver.load(ordering: .relaxed) {
            guard let descriptor = CheckSockets.accept(exchange, milliseconds: 200) else {
                continue
            }
            defer { close(descriptor) }
            do throws(CheckSockets.Failure) {
                let line = try CheckSockets.receiveLine(from: descriptor)
                guard let message = parsed(line) else { continue }
                try CheckSockets.send(encoded(to: message.host), to: descriptor)
                take(message)
            } catch {
                // Whoever it was tries again, or is told of as silent.
                continue
            }
        }
    }

    private func parsed(_ line: String) -> Message? {
        let message = try? JSONDecoder().decode(Message.self, from: Data(line.utf8))
        return message?.version == Message.currentVersion ? message : nil
    }

    private func encoded(to host: String) -> String {
        var message = own
        message.milliseconds = Self.now()
        message.reached = peers.withLock { peers in
            Dictionary(
                (peers[host]?.outward ?? [:]).map { ("\($0.key)", $0.value) },
                uniquingKeysWith: { $1 })
        }
        return (try? json(message, isPretty: false)) ?? ""
    }

    private func take(_ message: Message) {
        peers.withLock { peers in
            peers[message.host]?.inward = message.reached
            peers[message.host]?.digest = message.digest
            peers[message.host]?.cluster = message.cluster
        }
    }

    private static func now() -> Int64 { Int64(Date().timeIntervalSince1970 * 1000) }

    // MARK: Looking

    private func look(at name: String, until deadline: Date) {
        while true {
            guard let peer = peers.withLock({ $0[name] }), !isDone(peer) else { return }
            for port in peer.ports.keys {
                let reason = Self.attempt(HostPort(host: peer.address, port: port))
                peers.withLock { $0[name]?.outward[port] = reason }
            }
            talk(to: name, at: HostPort(host: peer.address, port: port))
            guard Date() < deadline else { return }
            Thread.sleep(forTimeInterval: Limits.pause)
        }
    }

    /// Why a port cannot be reached; empty if it can.
    private static func attempt(_ place: HostPort) -> String {
        do throws(CheckSockets.Failure) {
            close(try CheckSockets.connect(to: place, milliseconds: 2000))
            return ""
        } catch {
            return error.text
        }
    }

    private func talk(to name: String, at place: HostPort) {
        do throws(CheckSockets.Failure) {
            let descriptor = try CheckSockets.connect(to: place, milliseconds: 2000)
            defer { close(descriptor) }
            let knowsAll = peers.withLock { $0[name]?.reachesAll == true }
            let before = Self.now()
            try CheckSockets.send(encoded(to: name), to: descriptor)
            let line = try CheckSockets.receiveLine(from: descriptor)
            let after = Self.now()
            guard let message = parsed(line), message.host == name else {
                peers.withLock { $0[name]?.silence = "what answers at \(place) is not \(name)" }
                return
            }
            take(message)
            peers.withLock { peers in
                peers[name]?.silence = nil
                peers[name]?.isTold = knowsAll
                // The answer was written between the two, most likely in the middle.
                let error = (after - before + 1) / 2
                if peers[name]?.clock.map({ error < $0.error }) ?? true {
                    peers[name]?.clock = (message.milliseconds - (before + after) / 2, error)
                }
            }
        } catch {
            peers.withLock { $0[name]?.silence = error.text }
        }
    }

    // MARK: What was found

    private func findings(_ peer: Peer) -> [CheckFinding] {
        var found: [CheckFinding] = []
        for (port, what) in peer.ports.sorted(by: { $0.key < $1.key }) {
            guard let reason = peer.outward[port], !reason.isEmpty else { continue }
            found.append(
                .fail(
                    "\(peer.name) is not reached at \(peer.address):\(port) (\(what)): \(reason)",
                    do: Self.advice(reason, peer.name)))
        }
        if let silence = peer.silence {
            found.append(
                .fail(
                    "\(peer.name) does not say what it sees (\(peer.address):\(self.port): \(silence))",
                    do: "run apus init check there too, at the same time"))
            if found.count == 1, peer.inward == nil {
                return found + [.ok("\(peer.name) is reached on all ports")]
            }
        }
        for (port, what) in ownPorts.sorted(by: { $0.key < $1.key }) {
            guard let reason = peer.inward?["\(port)"], !reason.isEmpty else { continue }
            found.append(
                .fail(
                    "\(peer.name) does not reach this host at port \(port) (\(what)): \(reason)",
                    do: "see what a firewall here, or on the way, keeps out"))
        }
        if peer.silence == nil, found.isEmpty, !peer.isReached(at: Array(ownPorts.keys)) {
            found.append(
                .fail(
                    "\(peer.name) has not told yet whether it reaches this host",
                    do: "run apus init check on both at the same time"))
        }
        if let cluster = peer.cluster, cluster != own.cluster {
            found.append(
                .fail(
                    "\(peer.name) belongs to cluster \(cluster), this is \(own.cluster)",
                    do: "have the same settings file on all hosts"))
        } else if let digest = peer.digest, digest != own.digest {
            found.append(
                .fail(
                    "\(peer.name) has another settings file than this host",
                    do: "copy the file to all hosts"))
        }
        if let clock = peer.clock, abs(clock.offset) > Limits.clockMilliseconds + clock.error {
            let seconds = String(format: "%.1f s", Double(abs(clock.offset)) / 1000)
            found.append(
                .fail(
                    "\(peer.name)'s clock is \(seconds) \(clock.offset > 0 ? "ahead" : "behind")",
                    do: "have both follow a time server: apt install chrony"))
        }
        guard found.isEmpty else { return found }
        let clock =
            peer.clock.map { ", clocks within \(max(abs($0.offset) + $0.error, 1)) ms" } ?? ""
        return [.ok("\(peer.name) and this host reach each other on all ports\(clock)")]
    }

    private static func advice(_ reason: String, _ name: String) -> String {
        reason == String(cString: strerror(ECONNREFUSED))
            ? "nothing listens there: run apus init check on \(name) at the same time, or start the role"
            : "see whether \(name) is up, its address right, and no firewall in between"
    }
}
