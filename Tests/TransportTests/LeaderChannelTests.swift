import Eventually
import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Transport

/// A member of a group as its clients see it.
private final class FakeMember: RPCHandler {
    enum Mood { case leads, follows(String?), hangs, fails(StoreError.Code) }

    private struct State {
        var mood: Mood
        var calls = 0
        var view = GroupStatusResponse()
    }

    private let state: Mutex<State>

    init(_ mood: Mood) { state = Mutex(State(mood: mood)) }

    var calls: Int { state.withLock { $0.calls } }
    func be(_ mood: Mood) { state.withLock { $0.mood = mood } }
    func see(_ view: GroupStatusResponse) { state.withLock { $0.view = view } }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        let isQuestion = request.method == RaftMethod.status.rawValue
        let (mood, view) = state.withLock { state in
            if !isQuestion { state.calls += 1 }
            return (state.mood, state.view)
        }
        switch mood {
        case .follows where request.isForAnyMember: return RPCReply(request.message)
        case .hangs:
            // Until the server ends what is under way.
            try? await Task.sleep(for: .seconds(600))
            throw StoreError(.cancelled, "it was stopped")
        case _ where isQuestion: return RPCReply(view.encoded)
        case .leads: return RPCReply(request.message)
        case .follows(let leader):
            throw StoreError(.notLeader, "another leads", leader: leader)
        case .fails(let code): throw StoreError(code, "it fails")
        }
    }
}

@Suite("The channel that follows a group's leader")
struct LeaderChannelTests {
    private struct Rig {
        let members: [FakeMember]
        let addresses: [String]
        let servers: [RPCServer]
        let channel: LeaderChannel
        let pool: ChannelPool
        let reactor: Reactor

        func view(leader: Int?, term: UInt64) -> GroupStatusResponse {
            var view = GroupStatusResponse()
            view.term = term
            view.leader = leader.map { UInt64($0 + 1) } ?? 0
            view.members = addresses.enumerated().map { number, address in
                var row = GroupMember()
                row.peer = UInt64(number + 1)
                row.address = address
                return row
            }
            return view
        }
    }

    private func withMembers(
        _ moods: [FakeMember.Mood], known: Int? = nil, _ body: (Rig) async throws -> Void
    ) async throws {
        let reactor = try Reactor.start()
        let members = moods.map { FakeMember($0) }
        let servers = try members.map {
            try RPCServer(
                host: "127.0.0.1", port: 0, name: "member", reactors: [reactor], handler: $0,
                limits: .patient)
        }
        for server in servers { server.start() }
        let addresses = servers.map { "127.0.0.1:\($0.port)" }
        let pool = ChannelPool(name: "test")
        let channel = try LeaderChannel(
            Array(addresses.prefix(known ?? addresses.count)), channels: pool, on: reactor)
        let rig = Rig(
            members: members, addresses: addresses, servers: servers, channel: channel,
            pool: pool, reactor: reactor)
        let outcome: Result<Void, any Error>
        do { outcome = .success(try await body(rig)) } catch { outcome = .failure(error) }
        for server in servers { await server.stop() }
        reactor.stop()
        try outcome.get()
    }

    private func call(
        _ rig: Rig, _ repetition: LeaderChannel.Repetition = .harmless,
        timeout: Duration = .seconds(60)
    ) async throws -> [UInt8] {
        try await rig.channel.call(7, [1, 2], timeout: timeout, repetition: repetition).message
    }

    @Test("it goes where a member says that the leader is, and stays there")
    func hint() async throws {
        try await withMembers([.follows(nil), .leads, .leads], known: 1) { rig throws in
            rig.members[0].be(.follows(rig.addresses[2]))
            #expect(try await call(rig, .unsafe) == [1, 2])
            #expect(try await call(rig, .unsafe) == [1, 2])
            #expect(rig.members.map(\.calls) == [1, 0, 2])
        }
    }

    private func ask(_ rig: Rig) async throws -> [UInt8] {
        try await rig.channel.call(
            7, [3], timeout: .seconds(60), repetition: .harmless, at: .members
        ).message
    }

    @Test("what any member may answer goes to one after the other, changes only to the leader")
    func spreads() async throws {
        try await withMembers([.leads, .follows(nil), .follows(nil)]) { rig throws in
            for _ in 0..<9 { #expect(try await ask(rig) == [3]) }
            #expect(rig.members.map(\.calls) == [3, 3, 3])
            #expect(try await call(rig, .identified) == [1, 2])
            // A change that says any member will do is the leader's all the same.
            let change = try await rig.channel.call(
                7, [4], timeout: .seconds(60), repetition: .identified, at: .members)
            #expect(change.message == [4])
            #expect(rig.members.map(\.calls) == [5, 3, 3])
        }
    }

    @Test(
        "a member that cannot answer what any may is left alone for a while, and the leader asked")
    func shuns() async throws {
        try await withMembers([.leads, .fails(.notLeader), .follows(nil)]) { rig throws in
            for _ in 0..<9 { #expect(try await ask(rig) == [3]) }
            let calls = rig.members.map(\.calls)
            #expect(calls[1] == 1 && calls[0] > 3 && calls[2] > 3)
        }
    }

    @Test(
        "a member that was left alone is asked again, and more once it answers, whatever it says",
        arguments: [false, true])
    func asksAgain(withErrors: Bool) async throws {
        try await withMembers([.leads, .fails(.notLeader), .follows(nil)]) { rig throws in
            while rig.members[1].calls == 0 { _ = try await ask(rig) }
            rig.members[1].be(withErrors ? .fails(.noSuchKey) : .follows(nil))
            try await eventually("it answers its share") {
                _ = try? await ask(rig)
                return rig.members[1].calls > 10
            }
        }
    }

    @Test("a refusal that is not the member's own is no reason to ask another")
    func refusedByAny() async throws {
        try await withMembers([.fails(.noSuchKey), .fails(.noSuchKey)]) { rig throws in
            for _ in 0..<2 {
                let error = await #expect(throws: StoreError.self) { try await ask(rig) }
                #expect(error?.code == .noSuchKey)
            }
            #expect(rig.members.map(\.calls) == [1, 1])
        }
    }

    @Test("a member that hangs holds no question up that others can answer")
    func hangingFollower() async throws {
        try await withMembers([.leads, .hangs, .follows(nil)]) { rig throws in
            for _ in 0..<9 { #expect(try await ask(rig) == [3]) }
            #expect(rig.members[1].calls == 1)
        }
    }

    @Test("without a hint it asks one after the other, and waits for one that is elected")
    func rotates() async throws {
        try await withMembers([.follows(nil), .follows(nil), .follows(nil)]) { rig throws in
            async let answer = call(rig)
            try await eventually("all were asked twice") {
                rig.members.allSatisfy { $0.calls >= 2 }
            }
            rig.members[1].be(.leads)
            #expect(try await answer == [1, 2])
        }
    }

    @Test("a member that is gone is passed over; a change is made again only if that is harmless")
    func gone() async throws {
        try await withMembers([.leads, .leads]) { rig throws in
            await rig.servers[0].stop()
            let error = await #expect(throws: StoreError.self) { try await call(rig, .unsafe) }
            #expect(error?.code == .connection)
            // But the next call goes elsewhere.
            #expect(try await call(rig, .unsafe) == [1, 2])
        }
        try await withMembers([.leads, .leads]) { rig throws in
            await rig.servers[0].stop()
            #expect(try await call(rig, .harmless) == [1, 2])
        }
    }

    @Test("a leader that hangs is left when others have elected another")
    func hangs() async throws {
        try await withMembers([.hangs, .follows(nil), .leads]) { rig throws in
            async let answer = call(rig)
            try await eventually("the call is with the one that hangs") {
                rig.members[0].calls == 1
            }
            // As long as they have no other it is waited for.
            for member in rig.members { member.see(rig.view(leader: 0, term: 1)) }
            try await Task.sleep(for: .seconds(1))
            #expect(rig.members[2].calls == 0)
            for member in rig.members { member.see(rig.view(leader: 2, term: 2)) }
            #expect(try await answer == [1, 2])
        }
    }

    @Test("a channel that is closed fails who waits for its connection, too")
    func closedWhileOpening() async throws {
        let reactor = try Reactor.start()
        // Takes connections and says nothing, as a host does that has hung.
        let silent = try Listener(host: "127.0.0.1", port: 0, on: reactor)
        let channel = RPCChannel(
            .remote(host: "127.0.0.1", port: silent.port), name: "test", on: reactor,
            mayShareMemory: false)
        let call = Task { try await channel.call(7, [], timeout: .seconds(60)) }
        try await eventually("it waits for the connection") { await channel.isWaitedFor }
        await channel.close()
        let error = await #expect(throws: StoreError.self) { try await call.value }
        #expect(error?.code == .connection && error?.message.contains("closed") == true)
        silent.close()
        reactor.stop()
    }

    @Test("what the leader answers is the answer, an error too")
    func errors() async throws {
        for code in [StoreError.Code.noSuchKey, .notReady, .overloaded, .deadlineExceeded] {
            try await withMembers([.fails(code), .leads]) { rig throws in
                let error = await #expect(throws: StoreError.self) { try await call(rig) }
                #expect(error?.code == code)
                #expect(rig.members[1].calls == 0)
            }
        }
    }

    @Test("where nobody leads the call ends in its time, and says so")
    func nobody() async throws {
        try await withMembers([.follows(nil), .follows(nil)]) { rig throws in
            let error = await #expect(throws: StoreError.self) {
                try await call(rig, timeout: .milliseconds(300))
            }
            #expect(error?.code == .notLeader)
        }
    }

    @Test("it learns of members that it was not told of")
    func learns() async throws {
        try await withMembers([.follows(nil), .follows(nil), .leads], known: 1) { rig throws in
            for member in rig.members { member.see(rig.view(leader: 2, term: 3)) }
            #expect(try await call(rig) == [1, 2])
        }
    }

    @Test("an address that is none is refused")
    func addresses() throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        for address in ["host", "host:0", "host:x", ":1", "a:b:1"] {
            #expect(throws: StoreError.self) {
                try LeaderChannel([address], channels: ChannelPool(name: "x"), on: reactor)
            }
        }
        #expect(throws: StoreError.self) {
            try LeaderChannel([], channels: ChannelPool(name: "x"), on: reactor)
        }
    }
}
