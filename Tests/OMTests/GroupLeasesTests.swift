import Model
import Reactor
import Testing

@testable import OM

/// Groups are of five of six nodes, so each is without one.
@Suite("groups fetched ahead", .timeLimit(.minutes(5)))
struct GroupLeasesTests {
    private let replication: ReplicationConfig
    private let blocks = FakeBlocks(nodes: 6)
    private let reactor: Reactor
    private let leases: GroupLeases

    init() throws {
        replication = try ReplicationConfig("rs-3-2-1024k")
        reactor = try Reactor.start()
        leases = GroupLeases(blocks: blocks, reactor: reactor)
    }

    private static func without(_ numbers: UInt64...) -> ExcludeList {
        ExcludeList(
            nodes: Set(numbers.map { DatanodeID(high: 0, low: $0) }), degradedGroups: true)
    }

    /// Nobody waits any more for what was asked.
    private func settle() async throws {
        blocks.with { $0.isSilent = false }
        while blocks.with({ $0.waiting }) > 0 { try await Task.sleep(for: .milliseconds(5)) }
    }

    @Test("of what is kept for all, as many are taken as are wanted, or none")
    func atHand() async throws {
        defer { reactor.stop() }
        var used = try await leases.take(replication, count: 1).map(\.group)
        let fetched = blocks.with { $0.allocations }[0]
        #expect(fetched == 16, "three of them without the second node")
        let without = Self.without(2)
        #expect(leases.takeAtHand(replication, count: 4, excluding: without).isEmpty)
        let three = leases.takeAtHand(replication, count: 3, excluding: without).map(\.group)
        #expect(three.count == 3 && !three.contains { without.contains($0) })
        used += three
        #expect(leases.takeAtHand(replication, count: 1, excluding: without).isEmpty)
        used += try await leases.take(replication, count: fetched - 4).map(\.group)
        #expect(
            Set(used.map(\.blockID.localID)) == Set((1...UInt64(fetched)).map { $0 * 10 }),
            "none is lost, none given out twice")
        try await settle()
    }

    @Test("who can do with any group waits for SCM for a moment, and not again while it is away")
    func patience() async throws {
        defer { reactor.stop() }
        _ = try await leases.take(replication, count: 1)
        #expect(blocks.patiences == [nil])
        blocks.fail(with: StoreError(.deadlineExceeded, "SCM is away"))
        var error = await #expect(throws: StoreError.self) {
            try await leases.take(replication, count: 1, excluding: Self.without(1, 2))
        }
        #expect(error?.code == .deadlineExceeded)
        #expect(blocks.patiences == [nil, GroupLeases.Limits.patience])
        // Whoever waited now would wait for ever.
        blocks.with { $0.isSilent = true }
        error = await #expect(throws: StoreError.self) {
            try await leases.take(replication, count: 1, excluding: Self.without(3, 4))
        }
        #expect(error?.message == "SCM is away")
        // It is asked all the same: it is known at once when it is there again.
        blocks.fail(with: nil)
        try await settle()
        var code: StoreError.Code? = .deadlineExceeded
        while code == .deadlineExceeded {
            do throws(StoreError) {
                _ = try await leases.take(replication, count: 1, excluding: Self.without(5, 6))
                code = nil
            } catch { code = error.code }
            try await Task.sleep(for: .milliseconds(5))
        }
        #expect(code == .cannotPlace, "SCM was waited for")
        try await settle()
    }

    @Test("that there is no such group is an answer: SCM is waited for by others")
    func answers() async throws {
        defer { reactor.stop() }
        for code in [StoreError.Code.cannotPlace, .overloaded, .noSpace, .invalidArgument] {
            blocks.fail(with: StoreError(code, "no"))
            let error = await #expect(throws: StoreError.self) {
                try await leases.take(replication, count: 1, excluding: Self.without(1))
            }
            #expect(error?.code == code)
            blocks.fail(with: nil)
            let group = try #require(
                try await leases.take(replication, count: 1, excluding: Self.without(2)).first)
            #expect(!Self.without(2).contains(group.group))
            leases.invalidate(nil)
        }
        try await settle()
    }
}
