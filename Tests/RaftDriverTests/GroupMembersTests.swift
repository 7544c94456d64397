import Eventually
import Foundation
import GroupTestSupport
import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Synchronization
import Testing
import Transport
import Wire

@testable import RaftDriver

/// A process of a role that is a member of a group: its port, its directory, and the member.
final class Host: Sendable {
    let place: GroupPlace
    let directory: String
    let reactor: Reactor
    let channels = ChannelPool(name: "test")
    private struct State {
        var server: RPCServer?
        var group: MetadataGroup<Appending>?
        var keeper: GroupKeeper?
        /// Why it could not be opened once it was invited.
        var failure: (any Error)?
    }
    private let state = Mutex(State())

    init(_ place: GroupPlace, _ directory: String) throws {
        self.place = place
        self.directory = directory
        reactor = try Reactor.start()
    }

    var group: MetadataGroup<Appending>? { state.withLock { $0.group } }

    /// Serves, and opens what is in the directory, or what it is invited to be.
    func start() async throws {
        let service = GroupService(place, directory: directory, on: reactor)
        let address = try HostPort(place.address)
        let server = try RPCServer(
            host: address.host, port: address.port, name: place.name, reactors: [reactor],
            handler: service)
        server.start()
        state.withLock { $0.server = server }
        let found = try await MemberIdentity.load(from: directory, for: place, on: reactor)
        guard let found else {
            Task {
                do {
                    try await self.open(service, await service.invitation())
                } catch {
                    self.state.withLock { $0.failure = error }
                }
            }
            return
        }
        try await open(service, found)
    }

    private func open(_ service: GroupService, _ identity: MemberIdentity) async throws {
        var options = MetadataGroupOptions(log: .init(segmentSize: 256 << 10))
        options.member.tick = .milliseconds(20)
        let group = try await MetadataGroup.open(
            directory: directory, as: identity, reactor: reactor, stateMachine: Appending(),
            channels: channels, options: options)
        let keeper = GroupKeeper(
            group, as: identity, address: place.address, channels: channels, notice: { _ in })
        service.open(keeper, serving: NoRole())
        keeper.start()
        state.withLock { state in
            state.group = group
            state.keeper = keeper
        }
    }

    /// Throws why it could not be opened, if so.
    func check() throws { if let failure = state.withLock({ $0.failure }) { throw failure } }

    func begin() async throws {
        try await MemberIdentity.founder(place).store(in: directory, on: reactor)
    }

    func stop() async {
        let (server, group, keeper) = state.withLock { state in
            defer { state = State() }
            return (state.server, state.group, state.keeper)
        }
        keeper?.cancel()
        await server?.stop()
        try? await group?.close()
        await keeper?.stop()
    }

    func value(_ key: UInt8) async throws -> [UInt8] {
        try await group?.engine.store.read { $0.get(Appending.table, [key]) } ?? []
    }
}

/// The role of these groups answers nothing.
struct NoRole: RPCHandler {
    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        throw StoreError(.unsupported, "there are no requests")
    }
}

@Suite("The members of a group: who they are, who comes and goes", .serialized)
struct GroupMembersTests {
    static let cluster = "7b0c0a52-8f6e-4c6a-9b35-0d5a7b1c2d3e"

    private static func freePorts(_ count: Int) throws -> [Int] {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        let listeners = try (0..<count).map { _ in
            try Listener(host: "127.0.0.1", port: 0, on: reactor)
        }
        defer { for listener in listeners { listener.close() } }
        return listeners.map(\.port)
    }

    /// Hosts `om1` and on, of which the first `founders` begin a group.
    static func withHosts(
        _ count: Int, founders: Int, _ body: ([Host], GroupAsker) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            let ports = try Self.freePorts(count)
            let addresses = ports.enumerated().map { "om\($0 + 1)=127.0.0.1:\($1)" }
            var hosts: [Host] = []
            for number in 1...count {
                let known = number <= founders ? Array(addresses[..<founders]) : addresses
                hosts.append(
                    try Host(
                        GroupPlace(
                            role: "om", name: "om\(number)", address: "127.0.0.1:1",
                            cluster: Self.cluster, addresses: known),
                        "\(directory)/om\(number)"))
            }
            for host in hosts[..<founders] {
                try await host.begin()
                try await host.start()
            }
            let outcome: Result<Void, any Error>
            do {
                outcome = .success(try await body(hosts, GroupAsker(hosts)))
            } catch {
                outcome = .failure(error)
            }
            for host in hosts {
                await host.stop()
                host.reactor.stop()
            }
            try outcome.get()
        }
    }

    @Test("first members find each other, and all know names and addresses")
    func begin() async throws {
        try await Self.withHosts(3, founders: 3) { hosts, group in
            try await group.propose([1, 7])
            try await eventually("all members know where all are") {
                try await group.views().allSatisfy { view in
                    view.members.map(\.name).sorted() == ["om1", "om2", "om3"]
                        && view.members.allSatisfy { !$0.address.isEmpty } && view.leader != 0
                }
            }
            for host in hosts { #expect(host.group?.roster.count == 3) }
        }
    }

    @Test("a group of one grows to three while it serves, and outlives its first member")
    func grow() async throws {
        try await Self.withHosts(3, founders: 1) { hosts, group in
            for value in 0..<20 as Range<UInt8> { try await group.propose([1, value]) }
            for number in [2, 3] {
                try await hosts[number - 1].start()
                try await group.change(.addMember, adding: hosts[number - 1].place)
                try await group.propose([1, UInt8(18 + number)])
            }
            try await group.untilVoters(["om1", "om2", "om3"])
            // Having read the log from its first entry they know the first member too.
            await hosts[0].stop()
            for value in 22..<30 as Range<UInt8> { try await group.propose([1, value]) }
            for host in hosts[1...] {
                try await eventually("\(host.place.name) has everything") {
                    try await host.value(1) == Array(0..<30)
                }
            }
            try await hosts[0].start()
            try await eventually("om1 has caught up") {
                try await hosts[0].value(1) == Array(0..<30)
            }
        }
    }

    @Test("a member that was wiped comes back as another, and the number it had is gone")
    func wiped() async throws {
        try await Self.withHosts(3, founders: 3) { hosts, group in
            for value in 0..<10 as Range<UInt8> { try await group.propose([1, value]) }
            try await group.untilVoters(["om1", "om2", "om3"])
            await hosts[2].stop()
            try FileManager.default.removeItem(atPath: hosts[2].directory)
            try await hosts[2].start()
            // It has no files, and nobody has invited it: it is no member.
            #expect(hosts[2].group == nil)
            try await group.change(.addMember, adding: hosts[2].place)
            try await eventually("the new one votes, and the old one is gone") {
                let members = try await group.leaderView().members
                return members.count == 3 && members.allSatisfy { $0.role != .learner }
                    && members.allSatisfy {
                        $0.peer <= 2 || $0.peer >= MemberIdentity.Limits.firstDrawn
                    }
            }
            let peers = try await group.leaderView().members.map(\.peer).sorted()
            try await eventually("om3 has everything") {
                try await hosts[2].value(1) == Array(0..<10)
            }
            // An invitation that is repeated is answered with the same number.
            try await group.change(.addMember, adding: hosts[2].place)
            let again = try await group.leaderView().members.map(\.peer).sorted()
            #expect(again == peers)
        }
    }

    @Test("leadership is handed over; a member is taken out; the last majority is kept")
    func transferAndRemove() async throws {
        try await Self.withHosts(3, founders: 3) { hosts, group in
            try await group.propose([1, 1])
            try await group.untilVoters(["om1", "om2", "om3"])
            for name in ["om2", "om3", "om1"] {
                try await group.transfer(to: name)
                let view = try await group.leaderView()
                #expect(view.members.first { $0.peer == view.leader }?.name == name)
            }
            try await group.remove("om3")
            try await group.untilVoters(["om1", "om2"])
            let unknown = await #expect(throws: StoreError.self) { try await group.remove("om3") }
            #expect(unknown?.code == .invalidArgument)
            try await group.propose([1, 2])
            // Of two nobody can be spared while the other does not answer.
            let leader = try await group.leaderName()
            let other = leader == "om1" ? 1 : 0
            await hosts[other].stop()
            try await eventually("it is noticed that the other is gone") {
                try await group.views().allSatisfy { view in
                    view.leader == 0
                        || view.members.contains {
                            $0.name == hosts[other].place.name && !$0.isReachable
                        }
                }
            }
            let refused = await #expect(throws: StoreError.self) {
                try await group.remove(leader)
            }
            // Once it has stepped down others are asked until the call's time is over, and of those
            // one does not answer.
            let codes: [StoreError.Code] = [
                .unavailable, .notLeader, .connection, .deadlineExceeded,
            ]
            #expect(refused.map { codes.contains($0.code) } == true)
        }
    }

    @Test("who has lost its log does not vote as if it remembered")
    func lostLog() async throws {
        try await Self.withHosts(3, founders: 3) { hosts, group in
            try await group.propose([1, 1])
            await hosts[1].stop()
            try FileManager.default.removeItem(atPath: hosts[1].directory + "/log")
            try FileManager.default.removeItem(atPath: hosts[1].directory + "/metadata.db")
            let error = await #expect(throws: StoreError.self) { try await hosts[1].start() }
            #expect(error?.code == .corrupt && error?.message.contains("om2") == true)
        }
    }
}

/// Asks a group as its clients and operators do.
struct GroupAsker {
    let hosts: [Host]
    init(_ hosts: [Host]) { self.hosts = hosts }

    private func channel() throws -> LeaderChannel {
        try LeaderChannel(
            hosts.map(\.place.address), channels: hosts[0].channels, on: hosts[0].reactor)
    }

    func propose(_ command: [UInt8]) async throws {
        try await eventually("the command is applied") {
            for host in hosts where host.group?.leadership.isLeading == true {
                do throws(StoreError) {
                    _ = try await host.group?.propose(command)
                    return true
                } catch {
                    guard error.code == .notLeader else { throw error }
                }
            }
            return false
        }
    }

    func views() async throws -> [GroupStatusResponse] {
        var views: [GroupStatusResponse] = []
        for host in hosts {
            let place = try HostPort(host.place.address)
            let channel = hosts[0].channels.channel(
                host: place.host, port: place.port, on: hosts[0].reactor)
            let reply = try? await channel.call(
                RaftMethod.status.rawValue, [], timeout: .seconds(2))
            if let reply { views.append(try GroupStatusResponse(parsing: reply.message)) }
        }
        return views
    }

    func leaderView() async throws -> GroupStatusResponse {
        for _ in 0..<1000 {
            let view = try await views().filter { $0.peer == $0.leader }
                .max { $0.term < $1.term }
            if let view { return view }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw StoreError(.deadlineExceeded, "nobody leads")
    }

    func leaderName() async throws -> String {
        let view = try await leaderView()
        return view.members.first { $0.peer == view.leader }?.name ?? ""
    }

    func untilVoters(_ names: [String]) async throws {
        try await eventually("\(names) vote") {
            for host in hosts { try host.check() }
            return try await leaderView().members.filter { $0.role != .learner }.map(\.name)
                .sorted()
                == names
        }
    }

    func change(_ method: RaftMethod, adding place: GroupPlace) async throws {
        var request = GroupAddRequest()
        request.name = place.name
        request.address = place.address
        _ = try await channel().call(
            method.rawValue, request.encoded, timeout: .seconds(30), repetition: .harmless)
    }

    func remove(_ name: String) async throws {
        var request = GroupRemoveRequest()
        request.name = name
        _ = try await channel().call(
            RaftMethod.removeMember.rawValue, request.encoded, timeout: .seconds(5),
            repetition: .harmless)
    }

    func transfer(to name: String) async throws {
        var request = GroupTransferRequest()
        request.name = name
        _ = try await channel().call(
            RaftMethod.transferLeadership.rawValue, request.encoded, timeout: .seconds(30),
            repetition: .harmless)
    }
}

@Suite("Whose files a directory has")
struct MemberIdentityTests {
    private func place(
        _ name: String = "om1", cluster: String = "", addresses: [String] = []
    ) throws -> GroupPlace {
        try GroupPlace(
            role: "om", name: name, address: "h1:9862", cluster: cluster, addresses: addresses)
    }

    @Test("it is what was written; damage is found, and a later form is told from it")
    func bytes() throws {
        let identity = try MemberIdentity.founder(
            place(
                cluster: "7b0c0a52-8f6e-4c6a-9b35-0d5a7b1c2d3e",
                addresses: ["om1=h1:1", "om2=h2:1"]))
        let bytes = identity.encoded
        #expect(try MemberIdentity(parsing: bytes) == identity)
        for place in bytes.indices where place != 7 {
            var damaged = bytes
            damaged[place] ^= 1
            #expect(try MemberIdentity(parsing: damaged) == nil, "byte \(place)")
        }
        #expect(try MemberIdentity(parsing: Array(bytes.dropLast())) == nil)
        var later = bytes
        later[7] += 1
        let error = #expect(throws: StoreError.self) { try MemberIdentity(parsing: later) }
        #expect(error?.code == .versionMismatch)
    }

    @Test("members of a group name it alike, those of other clusters and roles otherwise")
    func groups() throws {
        let one = "7b0c0a52-8f6e-4c6a-9b35-0d5a7b1c2d3e"
        let other = "7b0c0a52-8f6e-4c6a-9b35-0d5a7b1c2d3f"
        let addresses = ["om1=h1:1", "om2=h2:1"]
        let first = try MemberIdentity.founder(place(cluster: one, addresses: addresses))
        let second = try MemberIdentity.founder(place("om2", cluster: one, addresses: addresses))
        #expect(first.group == second.group && first.founders == second.founders)
        #expect(first.peer == 1 && second.peer == 2)
        #expect(try place(cluster: other).group != first.group)
        #expect(try place(cluster: "prod").group != place(cluster: "test").group)
        let scm = try GroupPlace(
            role: "scm", name: "scm1", address: "h1:1", cluster: one, addresses: [])
        #expect(scm.group != first.group)
    }

    @Test(
        "settings that name no member are refused",
        arguments: ["om1", "om1=h1", "om1=h1:0", "scm1=h1:1", "om=h1:1", "om01=h1:1", "=h1:1"])
    func refused(entry: String) throws {
        let error = #expect(throws: StoreError.self) { try place(addresses: [entry]) }
        #expect(error?.code == .invalidArgument)
    }

    @Test("a name or an address that is there twice is refused, and a first member that is not")
    func twice() throws {
        #expect(throws: StoreError.self) { try place(addresses: ["om1=h1:1", "om1=h2:1"]) }
        #expect(throws: StoreError.self) { try place(addresses: ["om1=h1:1", "om2=h1:1"]) }
        #expect(throws: StoreError.self) {
            try MemberIdentity.founder(place("om3", addresses: ["om1=h1:1", "om2=h2:1"]))
        }
    }

    @Test("the directory of another member or cluster is refused with both names")
    func others() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            #expect(
                try await MemberIdentity.load(from: directory, for: place(), on: reactor) == nil)
            let cluster = "7b0c0a52-8f6e-4c6a-9b35-0d5a7b1c2d3e"
            let identity = try MemberIdentity.founder(place(cluster: cluster))
            try await identity.store(in: directory, on: reactor)
            #expect(
                try await MemberIdentity.load(
                    from: directory, for: place(cluster: cluster), on: reactor) == identity)
            let name = await #expect(throws: StoreError.self) {
                try await MemberIdentity.load(from: directory, for: place("om2"), on: reactor)
            }
            #expect(name?.message.contains("om1") == true && name?.message.contains("om2") == true)
            let other = "00000000-8f6e-4c6a-9b35-0d5a7b1c2d3e"
            let clusters = await #expect(throws: StoreError.self) {
                try await MemberIdentity.load(
                    from: directory, for: place(cluster: other), on: reactor)
            }
            #expect(
                clusters?.message.contains(cluster) == true
                    && clusters?.message.contains(other) == true)
        }
    }
}

@Suite("A leader's lease by its own clock")
struct ReadLeaseTests {
    private func time(_ milliseconds: UInt64) -> MonotonicTime {
        MonotonicTime(nanoseconds: milliseconds * 1_000_000)
    }

    @Test("it runs from when the heartbeat was sent, three ticks shorter than votes are refused")
    func length() {
        var lease = ReadLease(tick: .milliseconds(50), electionTicks: 10)
        #expect(lease.end(1) == nil)
        lease.begin(1, at: time(1000))
        lease.begin(2, at: time(1050))
        // What was sent after the first tick bears the number of the second.
        #expect(lease.end(2) == time(1350))
        #expect(lease.end(3) == time(1400))
        #expect(lease.end(0) == nil && lease.end(9) == nil)
    }

    @Test("while the process stood still its lease went on")
    func standstill() {
        var lease = ReadLease(tick: .milliseconds(50), electionTicks: 10)
        lease.begin(1, at: time(1000))
        // Ten seconds later the answers to that tick's heartbeat are read at last.
        #expect(lease.end(2) == time(1350))
        lease.begin(2, at: time(11_000))
        #expect(lease.end(2) == time(1350))
    }

    @Test("of a term that is over nothing is left, nor of ticks too long ago")
    func forgets() {
        var lease = ReadLease(tick: .milliseconds(50), electionTicks: 10)
        for tick in 1...30 as ClosedRange<UInt64> { lease.begin(tick, at: time(tick * 50)) }
        #expect(lease.end(20) == nil && lease.end(31) != nil)
        lease.begin(1, at: time(9000))
        #expect(lease.end(31) == nil)
        lease.forget()
        #expect(lease.end(2) == nil)
    }
}
