import Model
import Testing
import Wire

@testable import SCMCore

@Suite("expected years to a loss")
struct DurabilityTests {
    @Test("the chance of a loss is that of failures that follow each other too quickly")
    func chain() {
        let (failures, repairs) = (0.02, 1000.0)
        // A mirror: one of two fails, and the other one before that was rebuilt.
        let mirror = Durability(
            width: 2, minimum: 1, failureRate: failures, repairTime: 1 / repairs)
        let byHand = 2 * failures * failures / (failures + repairs)
        #expect(abs(mirror.lossRate(missing: 0) / byHand - 1) < 1e-12)
        // One is missing: the other one fails, sooner or later.
        #expect(mirror.lossRate(missing: 1) == failures)
        #expect(mirror.lossRate(missing: 2) == .infinity)
        // Without redundancy it is the first failure of any.
        let single = Durability(width: 4, minimum: 4, failureRate: 0.25, repairTime: 1)
        #expect(single.lossRate(missing: 0) == 1)
        // Each replica of redundancy counts, and how quickly one is rebuilt, to its power.
        let wide = Durability(width: 9, minimum: 6, failureRate: 0.02, repairTime: 1 / repairs)
        let slow = Durability(width: 9, minimum: 6, failureRate: 0.02, repairTime: 10 / repairs)
        let ratio = slow.lossRate(missing: 0) / wide.lossRate(missing: 0)
        #expect((990...1000).contains(ratio), "\(ratio)")
        for missing in 0..<3 {
            #expect(wide.lossRate(missing: missing + 1) > 1000 * wide.lossRate(missing: missing))
        }
    }

    @Test("what is missing now, how much there is and how fast it is rebuilt all count")
    func cluster() throws {
        var rig = try RepairRig(nodes: 7)
        rig.seconds = 4
        var ids: [ContainerID] = []
        for number in 1...10 as ClosedRange<UInt64> {
            ids.append(try rig.addContainer(number, on: [0, 1, 2, 3, 4]))
        }
        rig.tick(2)
        let healthy = rig.state.safety(at: rig.now)
        #expect(!healthy.isRebuildRateMeasured && healthy.rows[0].yearsToLoss > 1000)
        for id in ids.prefix(3) { rig.lose(id, on: 1) }
        rig.tick()
        let one = rig.state.safety(at: rig.now).rows[0]
        #expect(one.yearsToLoss < healthy.rows[0].yearsToLoss / 1000)
        rig.lose(ids[0], on: 2)
        rig.lose(ids[0], on: 3)
        rig.tick()
        #expect(rig.state.safety(at: rig.now).rows[0].yearsToLoss == 0)
        rig.put(RepairRig.report(ids[0], 3), on: 2)
        rig.tick(20)
        let after = rig.state.safety(at: rig.now)
        #expect(after.degradedBlocks == 0 && after.isRebuildRateMeasured)
        // Four GiB, within about 10 s.
        #expect(after.rebuildBytesPerSecond > 2e8 && after.rebuildBytesPerSecond < 3e9)
        #expect(after.diskRepairSeconds < healthy.diskRepairSeconds + 1)
    }
}
