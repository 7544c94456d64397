import Testing

@testable import Raft

@Suite("ConfChange")
struct ConfChangeTests {
    @Test("a change comes back from its bytes as it was")
    func roundTrip() throws {
        let single = ConfChange(.addLearner, 0x1122_3344_5566_7788, context: [9, 8])
        #expect(try ConfChange(decoding: single.encoded) == single)
        #expect(single.encoded.count == 1 + 9 + 2)
        for transition in [ConfChangeV2.Transition.auto, .jointImplicit, .jointExplicit] {
            for count in [0, 1, 3, 256] {
                let change = ConfChangeV2(
                    transition: transition,
                    changes: (0..<count).map { ConfChangeSingle(.removePeer, PeerID(UInt64($0))) },
                    context: [1])
                #expect(try ConfChangeV2(decoding: change.encoded) == change)
            }
        }
    }

    @Test("the change that leaves a joint configuration has no bytes")
    func leave() throws {
        #expect(ConfChangeV2().encoded.isEmpty)
        #expect(try ConfChangeV2(decoding: []).leavesJoint)
    }

    @Test("bytes that are no change are refused, and say why")
    func malformed() {
        let good = ConfChangeV2(changes: [ConfChangeSingle(.addVoter, 3)]).encoded
        for length in 1..<good.count {
            #expect(throws: ConfChangeError.truncated) {
                try ConfChangeV2(decoding: Array(good[..<length]))
            }
        }
        #expect(throws: ConfChangeError.unknownVersion(2)) {
            try ConfChangeV2(decoding: [2] + good.dropFirst())
        }
        #expect(throws: ConfChangeError.unknownKind(7)) {
            try ConfChangeV2(decoding: [1, 7] + good.dropFirst(2))
        }
        #expect(throws: ConfChangeError.tooManyChanges(257)) {
            try ConfChangeV2(decoding: [1, 0, 1, 1])
        }
        #expect(throws: ConfChangeError.unknownKind(9)) {
            try ConfChange(decoding: [1, 9, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        #expect(throws: ConfChangeError.notAConfChange) { try ConfChangeV2(entry: Entry()) }
    }

    @Test("a leader drops a proposal whose change cannot be read")
    func proposal() throws {
        var group = ThesisGroup("voters=1")
        group.run("campaign 1", "run")
        let node = group.transcript.nodes[0].node
        #expect(throws: RaftError.malformedConfChange(.unknownVersion(9))) {
            try node.propose([Entry(kind: .confChange, data: [9])])
        }
        #expect(node.basicStatus.lastIndex == 11)
    }
}
