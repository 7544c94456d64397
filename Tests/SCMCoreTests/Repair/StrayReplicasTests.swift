import Model
import Testing

@testable import SCMCore

@Suite("replicas that may be no one's")
struct StrayReplicasTests {
    private let first = RepairRig.id(1)
    private let second = RepairRig.id(2)

    @Test("one that is told again and again was found when it was told first, and its turn comes")
    func toldAgain() {
        var strays = StrayReplicas()
        for beat in 1...1000 as ClosedRange<UInt64> {
            strays.add(ContainerID(7), on: first, beat: beat)
            strays.add(ContainerID(100 + beat), on: first, beat: beat)
            strays.remove(ContainerID(100 + beat), on: first)
        }
        #expect(strays.count(on: first) == 1 && strays.holders(of: ContainerID(7)) == [first])
        #expect(strays.next(on: first).map { [$0.id.rawValue, $0.beat] } == [7, 1])
        #expect(strays.next(on: first) == nil && strays.isEmpty)
    }

    @Test("a node that says anew what it has is believed anew")
    func forgotten() {
        var strays = StrayReplicas()
        strays.add(ContainerID(7), on: first, beat: 1)
        strays.add(ContainerID(7), on: second, beat: 2)
        strays.add(ContainerID(8), on: first, beat: 3)
        strays.forget(first)
        #expect(strays.count(on: first) == 0 && strays.holders(of: ContainerID(8)).isEmpty)
        #expect(strays.holders(of: ContainerID(7)) == [second])
        strays.add(ContainerID(7), on: first, beat: 9)
        #expect(strays.next(on: first)?.beat == 9)
        #expect(strays.next(on: second)?.beat == 2 && strays.isEmpty)
    }
}
