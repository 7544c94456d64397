import ContainerStore
import Eventually
import Model
import Reactor
import Synchronization
import Testing
import Wire

@testable import Datanode

@Suite("which SCM leads, as a datanode knows it")
struct SCMGroupTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    private func view(
        _ term: UInt64, _ leading: SCMLeading, _ scms: [String] = []
    ) -> SCMGroup.View {
        SCMGroup.View(term: term, leading: leading, scms: scms)
    }

    @Test("a leader of an earlier term is none, whoever says what in between")
    func terms() {
        var group = SCMGroup(["a:1", "b:1", "c:1"], at: start)
        func take(_ term: UInt64, _ leading: SCMLeading, _ address: String) -> Bool {
            group.take(view(term, leading), from: address, at: start)
        }
        #expect(take(3, .leads, "a:1"))
        #expect(take(4, .leads, "b:1"))
        #expect(!take(3, .leads, "a:1"))
        #expect(group.leader == "b:1" && group.term == 4)
        // One that is cut off goes on in terms of its own.
        #expect(!take(9, .follows, "c:1"))
        #expect(take(4, .leads, "b:1") && group.term == 4)
        #expect(!take(4, .follows, "b:1"))
        #expect(group.leader == nil)
        #expect(!take(3, .leads, "a:1"), "an end of leadership is no way back")
        #expect(take(5, .leads, "a:1"))
        // There is no way back to an SCM that says no term.
        #expect(!take(0, .notSaid, "b:1"))
    }

    @Test("who leads, or is the only one, is tried again soon; others ever later")
    func retries() {
        var group = SCMGroup(["a:1", "b:1", "c:1"], at: start)
        #expect(!group.isLed(byAnotherThan: "a:1"), "nobody is known to lead")
        _ = group.take(view(3, .leads), from: "a:1", at: start)
        #expect(group.isLed(byAnotherThan: "b:1"))
        #expect(!group.isLed(byAnotherThan: "a:1"))
        // It does not answer any more: whoever comes back next may be the one that leads.
        group.miss("b:1")
        #expect(group.isLed(byAnotherThan: "b:1"))
        group.miss("a:1")
        #expect(group.leader == nil && group.term == 3)
        #expect(!group.isLed(byAnotherThan: "b:1"))

        var retry = SCMRetry()
        let shortest = SCMRetry.Limits.shortest
        #expect(
            (1...5).map { _ in retry.pause(isLedByAnother: false) }
                == Array(repeating: shortest, count: 5))
        #expect(
            (1...5).map { _ in retry.pause(isLedByAnother: true) } == [
                shortest, shortest * 2, SCMRetry.Limits.longest, SCMRetry.Limits.longest,
                SCMRetry.Limits.longest,
            ])
        #expect(retry.pause(isLedByAnother: false) == shortest)
        #expect(retry.pause(isLedByAnother: true) == shortest)
        retry.succeed()
        #expect(retry.pause(isLedByAnother: true) == shortest)
    }

    @Test("an SCM of before, which says nothing, leads")
    func alone() {
        var group = SCMGroup(["a:1"], at: start)
        let leads = group.take(view(0, .notSaid), from: "a:1", at: start)
        #expect(leads)
        #expect(group.leader == "a:1" && group.addresses == ["a:1"])
    }

    @Test(
        "the leader says who the SCMs are; others are believed while there is none, and only to add"
    )
    func addresses() {
        var group = SCMGroup(["a:1"], at: start)
        var now = start
        _ = group.take(view(2, .leads, ["a:1", "b:1", "c:1"]), from: "a:1", at: now)
        #expect(group.addresses == ["a:1", "b:1", "c:1"])
        _ = group.take(view(2, .follows, ["a:1", "b:1"]), from: "b:1", at: now)
        #expect(group.addresses == ["a:1", "b:1", "c:1"])
        _ = group.take(view(2, .leads, ["b:1", "d:1", "b:1", "no address"]), from: "a:1", at: now)
        #expect(group.addresses == ["a:1", "b:1", "d:1"], "who answers is there")
        now = now.advanced(by: .seconds(11))
        _ = group.take(view(3, .follows, ["d:1", "e:1"]), from: "d:1", at: now)
        #expect(group.addresses == ["a:1", "b:1", "d:1", "e:1"])
        _ = group.take(view(3, .leads, ["nothing"]), from: "e:1", at: now)
        #expect(group.addresses == ["a:1", "b:1", "d:1", "e:1"], "never none")
        _ = group.take(view(3, .leads, ["b:1", "e:1"]), from: "e:1", at: now)
        #expect(group.addresses == ["b:1", "e:1"])
        _ = group.take(
            view(3, .leads, (0..<40).map { "h\($0):1" }), from: "e:1", at: now)
        #expect(group.addresses.count == SCMGroup.Limits.members)
    }
}

@Suite("reports to several SCMs", .timeLimit(.minutes(10)))
struct SeveralSCMsTests {
    private func delete(_ number: UInt64) -> SCMDatanodeCommand {
        var command = SCMDatanodeCommand()
        command.number = number
        command.deleteBlocks.blocks = [
            BlockID(containerID: ContainerID(1), localID: number).message
        ]
        return command
    }

    private func lead(_ scms: [FakeSCM], _ leader: Int, term: UInt64) {
        for (place, scm) in scms.enumerated() {
            scm.state.withLock { state in
                state.term = term
                state.leading = place == leader ? .leads : .follows
            }
        }
    }

    private func done(_ scm: FakeSCM) -> Set<UInt64> {
        scm.state.withLock { Set($0.done + $0.absent) }
    }

    @Test("each SCM hears of replicas; one that hangs delays none of the others")
    func hanging() async throws {
        let rig = try await Rig(scms: 3) { scms, _ in
            lead(scms, 1, term: 3)
            scms[0].state.withLock { $0.isHanging = true }
        }
        try await rig.datanode.store.createContainer(
            ContainerID(1), replication: try ReplicationConfig("rs-3-2-64k"), replicaIndex: 1)
        try await rig.until { rig.scms[1].heartbeats > 20 && rig.scms[2].heartbeats > 20 }
        #expect(rig.scms[0].heartbeats == 0)
        rig.scms[0].goOn()
        try await rig.until {
            rig.scms.allSatisfy { scm in
                scm.state.withLock { $0.replicas[1] != nil || $0.registrations > 1 }
                    && scm.heartbeats > 0
            }
        }
        try await rig.end()
    }

    @Test("orders of an earlier term, and of one that does not lead, are not carried out")
    func staleTerm() async throws {
        let rig = try await Rig(scms: 2) { scms, _ in lead(scms, 0, term: 5) }
        try await rig.until { rig.scms.allSatisfy { $0.heartbeats > 2 } }
        // The other one believes that it leads still.
        rig.scms[1].state.withLock { state in
            state.term = 4
            state.leading = .leads
            state.commands = [delete(2)]
        }
        rig.scms[0].state.withLock { $0.commands = [delete(1)] }
        try await rig.until { done(rig.scms[0]).contains(1) }
        let before = rig.scms[1].heartbeats
        try await rig.until { rig.scms[1].heartbeats > before + 10 }
        rig.scms[1].state.withLock { $0.leading = .follows }
        let again = rig.scms[1].heartbeats
        try await rig.until { rig.scms[1].heartbeats > again + 10 }
        #expect(done(rig.scms[0]) == [1] && done(rig.scms[1]).isEmpty)
        // It is elected.
        lead(rig.scms, 1, term: 6)
        try await rig.until { done(rig.scms[1]).contains(2) }
        try await rig.end()
    }

    @Test(
        "what was done is told to the one that leads, also if the one that ordered it was told"
    )
    func outcomes() async throws {
        let rig = try await Rig(scms: 3) { scms, _ in
            lead(scms, 0, term: 3)
            scms[0].state.withLock { state in
                state.commands = [delete(1)]
                state.isDeposedByItsOrders = true
            }
        }
        // The first has ordered, is deposed, and is told what was done: it cannot have it logged.
        try await rig.until { done(rig.scms[0]).contains(1) }
        let before = rig.scms.map(\.heartbeats)
        try await rig.until { rig.scms[1].heartbeats > before[1] + 5 }
        #expect(done(rig.scms[1]).isEmpty && done(rig.scms[2]).isEmpty, "nobody leads")
        lead(rig.scms, 2, term: 4)
        try await rig.until { done(rig.scms[2]).contains(1) }
        #expect(done(rig.scms[1]).isEmpty)
        try await rig.end()
    }

    @Test("it reports to SCMs that it is told of, and no longer to those that are removed")
    func members() async throws {
        let rig = try await Rig(scms: 3, known: 1) { scms, addresses in
            lead(scms, 0, term: 3)
            scms[0].state.withLock { $0.scms = addresses }
        }
        try await rig.until { rig.scms.allSatisfy { $0.heartbeats > 0 } }
        lead(rig.scms, 1, term: 4)
        let addresses = rig.addresses
        rig.scms[1].state.withLock { $0.scms = Array(addresses.dropFirst()) }
        var last = -1
        try await eventually("the first hears nothing more") {
            let now = rig.scms[0].heartbeats
            let others = rig.scms[2].heartbeats
            try await rig.until { rig.scms[2].heartbeats > others + 5 }
            defer { last = now }
            return now == last
        }
        try await rig.end()
    }
}

@Suite("what several SCMs are told of the replicas")
struct LastReportTests {
    private func replicas(_ count: UInt64, epoch: UInt64 = 1) -> ReportedNode.Replicas {
        var report = SCMReplicaReport()
        report.blocks = count
        return ReportedNode.Replicas(epoch: epoch, reports: [ContainerID(1): report])
    }

    @Test("a report that was begun earlier does not take the place of a newer one")
    func order() {
        let start = MonotonicTime(nanoseconds: 1_000_000_000)
        var last = ReportedNode.LastReport()
        #expect(last.usable(at: start, epoch: 1) == nil)
        last.keep(replicas(2), begun: start.advanced(by: .milliseconds(10)))
        last.keep(replicas(1), begun: start)
        let now = start.advanced(by: .milliseconds(20))
        #expect(last.usable(at: now, epoch: 1)?.reports[ContainerID(1)]?.blocks == 2)
        #expect(last.usable(at: now, epoch: 2) == nil)
        let late = start.advanced(by: ReportedNode.Limits.reportAge + .milliseconds(10))
        #expect(last.usable(at: late, epoch: 1) == nil)
    }
}
