import Testing

@testable import Raft

@Suite("Configuration")
struct ConfigurationTests {
    @Test("a configuration as usual is accepted")
    func usual() throws { try Configuration(id: 1).validate() }

    @Test("what cannot be is named")
    func refused() {
        func reason(_ change: (inout Configuration) -> Void) -> String {
            var configuration = Configuration(id: 1)
            change(&configuration)
            do {
                try configuration.validate()
                return ""
            } catch {
                return error.description
            }
        }
        #expect(reason { $0.id = .none }.contains("reserved"))
        #expect(reason { $0.id = .applyThread }.contains("reserved"))
        #expect(reason { $0.heartbeatTick = 0 }.contains("heartbeatTick"))
        #expect(reason { $0.electionTick = 1 }.contains("electionTick"))
        #expect(reason { $0.maxInflightMessages = 0 }.contains("maxInflightMessages"))
        #expect(reason { $0.maxInflightBytes = 5 }.contains("maxInflightBytes"))
        #expect(reason { $0.maxSizePerMessage = -1 }.contains("bytes"))
        #expect(reason { $0.leaseMarginTicks = 1 }.contains("leaseMarginTicks"))
        #expect(reason { $0.sendsQuorumFirst = true }.contains("tellsCommitLate"))
        #expect(reason { $0.readOnlyOption = .leaseBased }.contains("checkQuorum"))
    }

    @Test("a member does not start on a log that lost what was committed or applied")
    func lostEntries() {
        let storage = MemoryStorage(confState: ConfState(voters: [1]))
        storage.append([Entry(term: 1, index: 1)])
        storage.setHardState(HardState(term: 1, commit: 5))
        #expect(throws: RaftStartError.lostEntries(committed: 5, last: 1)) {
            try RawNode(
                configuration: Configuration(id: 1), storage: storage,
                randomTimeout: { $0.lowerBound })
        }
        storage.setHardState(HardState(term: 1, commit: 1))
        var configuration = Configuration(id: 1)
        configuration.applied = 2
        #expect(throws: RaftStartError.appliedBeyondLog(applied: 2, last: 1)) {
            try RawNode(
                configuration: configuration, storage: storage,
                randomTimeout: { $0.lowerBound })
        }
    }

    @Test("what was applied was committed, whatever commit index was persisted")
    func appliedIsCommitted() throws {
        let storage = MemoryStorage(confState: ConfState(voters: [1, 2]))
        storage.append((1...4).map { Entry(term: 1, index: $0) })
        storage.setHardState(HardState(term: 1, commit: 1))
        var configuration = Configuration(id: 1)
        configuration.applied = 3
        let node = try RawNode(
            configuration: configuration, storage: storage, randomTimeout: { $0.lowerBound })
        #expect(node.basicStatus.hardState.commit == 3)
        #expect(!node.hasReady)
    }
}
