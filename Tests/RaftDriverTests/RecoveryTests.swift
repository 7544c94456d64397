import Eventually
import Foundation
import GRDBSQLite
import GroupTestSupport
import MetadataStore
import Model
import Raft
import RaftLog
import Reactor
import Testing
import Transport
import Wire

@testable import RaftDriver

/// Runs a recovery to its end on what is in `directory`.
private func recover(
    _ place: GroupPlace, _ directory: String, on reactor: Reactor
) async throws -> MemberIdentity {
    let identity = try #require(
        try await MemberIdentity.load(from: directory, for: place, on: reactor))
    let recovery = try await GroupRecovery.open(
        directory: directory, as: identity, address: place.address, stateMachine: Appending(),
        log: .init(segmentSize: 256 << 10), on: reactor)
    do {
        var generator = SystemRandomNumberGenerator()
        let next = try await recovery.run(using: &generator)
        try await recovery.close()
        return next
    } catch {
        try? await recovery.close()
        throw error
    }
}

extension Host {
    fileprivate func recover() async throws -> MemberIdentity {
        try await RaftDriverTests.recover(place, directory, on: reactor)
    }

    /// Has a log of its group in which nothing is.
    fileprivate func beginEmptyLog() async throws {
        let identity = try #require(
            try await MemberIdentity.load(from: directory, for: place, on: reactor))
        let log = try await SharedLog.open(
            directory: "\(directory)/log", on: reactor, options: .init(segmentSize: 256 << 10))
        let members = ConfState(voters: identity.founders)
        _ = try await log.create(identity.group, confState: members, index: 0, term: 0)
        try await log.close()
    }

    /// Its files are lost.
    fileprivate func wipe() throws { try FileManager.default.removeItem(atPath: directory) }
}

@Suite("A group whose majority is lost for good", .serialized, .timeLimit(.minutes(10)))
struct RecoveryTests {
    @Test("one member goes on with all that it has, and the group grows again")
    func goesOn() async throws {
        try await GroupMembersTests.withHosts(3, founders: 3) { hosts, group in
            for value in 0..<20 as Range<UInt8> { try await group.propose([1, value]) }
            try await group.untilVoters(["om1", "om2", "om3"])
            let before = try await group.leaderView()
            for host in hosts {
                try await eventually("\(host.place.name) has all") {
                    try await host.value(1) == Array(0..<20)
                }
            }
            for host in hosts { await host.stop() }
            for host in hosts[..<2] { try host.wipe() }
            let identity = try await hosts[2].recover()
            #expect(identity.formerGroups.map(\.message) == [before.group])
            #expect(identity.founders == [identity.peer] && identity.peer != 3)
            try await hosts[2].start()
            let alone = try await group.leaderView()
            #expect(alone.members.map(\.name) == ["om3"] && alone.group != before.group)
            #expect(alone.term > before.term + GroupRecoveryLimits.termGap)
            #expect(alone.appliedIndex > before.appliedIndex + GroupRecoveryLimits.indexGap)
            try await group.propose([1, 20])
            for host in hosts[..<2] {
                try await host.start()
                try await group.change(.addMember, adding: host.place)
            }
            try await group.untilVoters(["om1", "om2", "om3"])
            for host in hosts[..<2] {
                let invited = try await MemberIdentity.load(
                    from: host.directory, for: host.place, on: host.reactor)
                #expect(
                    invited?.formerGroups.map(\.message) == [before.group],
                    "any member may be the one that a lost one asks")
            }
            try await group.propose([1, 21])
            for host in hosts {
                try await eventually("\(host.place.name) has everything") {
                    try await host.value(1) == Array(0..<22)
                }
            }
            // As any other: a restart, and the loss of one.
            await hosts[2].stop()
            try await group.propose([1, 22])
            try await hosts[2].start()
            try await eventually("om3 has caught up") {
                try await hosts[2].value(1) == Array(0..<23)
            }
        }
    }

    @Test("lost members that come back stop as soon as they hear of the new group")
    func oldOnes() async throws {
        try await GroupMembersTests.withHosts(3, founders: 3) { hosts, group in
            for value in 0..<5 as Range<UInt8> { try await group.propose([1, value]) }
            try await eventually("om3 has all") { try await hosts[2].value(1) == Array(0..<5) }
            for host in hosts { await host.stop() }
            _ = try await hosts[2].recover()
            try await hosts[2].start()
            try await group.propose([1, 77])
            for host in hosts[..<2] {
                try await host.start()
                try await eventually("\(host.place.name) has stopped") {
                    await host.group?.engine.member.health.disk == .failed
                }
                let health = try #require(await host.group?.engine.member.health)
                #expect(health.reason.contains("was given up when its majority was lost"))
                #expect(host.group?.leadership.isLeading == false)
            }
            try await group.propose([1, 78])
            #expect(try await hosts[2].value(1) == [0, 1, 2, 3, 4, 77, 78])
            #expect(try await group.leaderView().members.map(\.name) == ["om3"])
        }
    }

    @Test("a group of one, and a directory that was never a member's, are refused")
    func refused() async throws {
        try await GroupMembersTests.withHosts(1, founders: 1) { hosts, group in
            try await group.propose([1, 1])
            await hosts[0].stop()
            let alone = await #expect(throws: StoreError.self) { try await hosts[0].recover() }
            #expect(alone?.code == .invalidArgument)
            // Nothing was changed.
            try await hosts[0].start()
            try await group.propose([1, 2])
            #expect(try await hosts[0].value(1) == [1, 2])
            await hosts[0].stop()
            try hosts[0].wipe()
            try await hosts[0].begin()
            let empty = await #expect(throws: StoreError.self) { try await hosts[0].recover() }
            #expect(empty?.message.contains("never a member") == true)
        }
    }

    /// Another process in the middle of reading a member's tables.
    private final class OtherReader {
        private var database: OpaquePointer?

        init(_ directory: String) throws {
            try #require(sqlite3_open("\(directory)/metadata.db", &database) == SQLITE_OK)
            let sql = "BEGIN; SELECT count(*) FROM sqlite_schema"
            try #require(sqlite3_exec(database, sql, nil, nil, nil) == SQLITE_OK)
        }

        func end() { sqlite3_close(database) }
    }

    @Test("what cannot be made durable is not built on, and no log given up for it")
    func readByOthers() async throws {
        try await GroupMembersTests.withHosts(3, founders: 3) { hosts, group in
            for value in 0..<10 as Range<UInt8> { try await group.propose([1, value]) }
            try await eventually("om2 has all") {
                try await hosts[1].value(1) == Array(0..<10)
            }
            let old = GroupID(try await group.leaderView().group)
            // As by a kill: the tables are behind the log.
            let killed = hosts[1].directory + ".killed"
            for host in hosts where host !== hosts[1] { await host.stop() }
            try FileManager.default.copyItem(atPath: hosts[1].directory, toPath: killed)
            await hosts[1].stop()
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let reader = try OtherReader(killed)
            let refused = await #expect(throws: StoreError.self) {
                try await recover(hosts[1].place, killed, on: reactor)
            }
            reader.end()
            #expect(refused?.code == .unavailable)
            let log = try await SharedLog.open(
                directory: killed + "/log", on: reactor, options: .init(segmentSize: 256 << 10))
            let left = try #require(
                try await MemberIdentity.load(from: killed, for: hosts[1].place, on: reactor))
            let next = try #require(left.next?.group)
            #expect(log.group(old) != nil)
            #expect(log.group(next) == nil, "the new log was begun on what may be lost")
            try await log.close()
            try await goOn(hosts[1].place, killed, old, "read by another process")
        }
    }

    @Test("a member whose log and tables do not fit together stays what it is")
    func unfit() async throws {
        try await GroupMembersTests.withHosts(3, founders: 3) { hosts, group in
            for value in 0..<10 as Range<UInt8> { try await group.propose([1, value]) }
            for host in hosts { await host.stop() }
            // The tables have applied what the log does not have.
            let log = hosts[1].directory + "/log"
            try FileManager.default.removeItem(atPath: log)
            try await hosts[1].beginEmptyLog()
            let refused = await #expect(throws: StoreError.self) { try await hosts[1].recover() }
            #expect(refused?.code == .corrupt)
            let identity = try #require(
                try await MemberIdentity.load(
                    from: hosts[1].directory, for: hosts[1].place, on: hosts[1].reactor))
            #expect(identity.next == nil)
        }
    }

    private func survey(_ host: Host) async throws -> RecoverySurvey {
        let identity = try #require(
            try await MemberIdentity.load(from: host.directory, for: host.place, on: host.reactor))
        let recovery = try await GroupRecovery.open(
            directory: host.directory, as: identity, address: host.place.address,
            stateMachine: Appending(), log: .init(segmentSize: 256 << 10), on: host.reactor)
        let survey = try await recovery.survey()
        try await recovery.close()
        return survey
    }

    @Test("who was taken in and is the only voter now is known by name, and has lost nothing")
    func aloneSince() async throws {
        try await GroupMembersTests.withHosts(2, founders: 1) { hosts, group in
            try await group.propose([1, 1])
            try await hosts[1].start()
            try await group.change(.addMember, adding: hosts[1].place)
            try await group.untilVoters(["om1", "om2"])
            await hosts[0].stop()
            await hosts[1].stop()
            let two = try await survey(hosts[1])
            #expect(!two.isAlone)
            #expect(two.members.map(\.name).sorted() == ["om1", "om2"])
            #expect(two.members.allSatisfy { $0.part == .voter })
            for host in hosts { try await host.start() }
            try await group.untilVoters(["om1", "om2"])
            try await group.transfer(to: "om2")
            try await group.remove("om1")
            try await group.untilVoters(["om2"])
            for host in hosts { await host.stop() }
            let one = try await survey(hosts[1])
            #expect(one.isAlone && one.members.map(\.name) == ["om2"])
            let refused = await #expect(throws: StoreError.self) { try await hosts[1].recover() }
            #expect(refused?.code == .invalidArgument)
        }
    }

    @Test("a voter that is being left has a say: without it there is no majority to start with")
    func joint() async throws {
        try await GroupMembersTests.withHosts(3, founders: 3) { hosts, group in
            try await group.propose([1, 1])
            for host in hosts { await host.stop() }
            // As cut off on the way from two voters to one.
            let log = try await SharedLog.open(
                directory: hosts[0].directory + "/log", on: hosts[0].reactor,
                options: .init(segmentSize: 256 << 10))
            let identity = try #require(
                try await MemberIdentity.load(
                    from: hosts[0].directory, for: hosts[0].place, on: hosts[0].reactor))
            let own = try #require(log.group(identity.group))
            try await own.setConfState(
                ConfState(voters: [1], votersOutgoing: [1, 2]), at: own.lastIndex)
            try await log.close()
            let found = try await survey(hosts[0])
            #expect(!found.isAlone)
            #expect(found.members.filter { $0.part == .voter }.map(\.name) == ["om1", "om2"])
            #expect(try await hosts[0].recover().formerGroups.count == 1)
        }
    }

    /// What the cut left starts as nothing but a recovery, or what it was, or is whole; and the next
    /// recovery ends it.
    private func goOn(
        _ place: GroupPlace, _ directory: String, _ old: GroupID, _ what: String
    ) async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        var options = MetadataGroupOptions(log: .init(segmentSize: 256 << 10))
        options.member.tick = .milliseconds(20)
        let left = try #require(
            try await MemberIdentity.load(from: directory, for: place, on: reactor), "\(what)")
        if left.next != nil {
            let refused = await #expect(throws: StoreError.self, "\(what)") {
                try await MetadataGroup.open(
                    directory: directory, as: left, reactor: reactor, stateMachine: Appending(),
                    channels: ChannelPool(name: "test"), options: options)
            }
            #expect(refused?.message.contains("has not ended") == true, "\(what)")
        }
        let identity =
            left.group == old ? try await recover(place, directory, on: reactor) : left
        #expect(identity.formerGroups == [old], "\(what)")
        let group = try await MetadataGroup.open(
            directory: directory, as: identity, reactor: reactor, stateMachine: Appending(),
            channels: ChannelPool(name: "test"), options: options)
        #expect(group.leadership.isLeading, "\(what)")
        #expect(group.engine.log.group(old) == nil, "\(what)")
        #expect(group.roster.map(\.name) == [place.name], "\(what)")
        _ = try await group.propose([1, 99])
        let value = try await group.read { $0.get(Appending.table, [1]) }
        #expect(value == Array(0..<10) + [99], "\(what)")
        try await group.close()
    }

    @Test("at whichever operation the power goes, it can be run again", arguments: [false, true])
    func cuts(ofTables: Bool) async throws {
        try await GroupMembersTests.withHosts(3, founders: 3) { hosts, group in
            for value in 0..<10 as Range<UInt8> { try await group.propose([1, value]) }
            try await eventually("om2 has all") {
                try await hosts[1].value(1) == Array(0..<10)
            }
            let old = GroupID(try await group.leaderView().group)
            // As by a kill: the tables are behind the log.
            let saved = hosts[1].directory + ".killed"
            for host in hosts where host !== hosts[1] { await host.stop() }
            try FileManager.default.copyItem(atPath: hosts[1].directory, toPath: saved)
            await hosts[1].stop()
            var number = 0
            var isCut = true
            while isCut {
                let directory = "\(saved).\(number)"
                try FileManager.default.copyItem(atPath: saved, toPath: directory)
                let running = try PowerCutGroup.Running(directory, seed: UInt64(number) + 1)
                if ofTables {
                    running.disk.crash(atOperation: number)
                } else {
                    running.faults.crash(atOperation: number)
                }
                do {
                    _ = try await recover(hosts[1].place, directory, on: running.reactor)
                } catch let error as StoreError {
                    #expect(running.disk.isDown, "\(error.message)")
                }
                isCut = running.disk.isDown
                running.disk.cut()
                running.reactor.stop()
                running.faults.applyCrash()
                try running.disk.applyCut()
                try await goOn(hosts[1].place, directory, old, "cut at operation \(number)")
                try FileManager.default.removeItem(atPath: directory)
                number += 1
            }
            #expect(number > 10, "a recovery has more operations than \(number)")
        }
    }
}
