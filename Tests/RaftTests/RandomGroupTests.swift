import Foundation
import Testing

@testable import Raft

@Suite("RandomGroup")
struct RandomGroupTests {
    @Test("no chance makes two leaders in a term, or members apply different entries")
    func safety() throws {
        let environment = ProcessInfo.processInfo.environment
        let seeds = environment["APUS_RAFT_SEEDS"].flatMap { UInt64($0) } ?? 60
        let first = environment["APUS_RAFT_SEED"].flatMap { UInt64($0) } ?? 1
        var totals = (committed: 0, elections: 0, snapshots: 0, changes: 0, reads: 0)
        for seed in first..<first + seeds {
            let group = try RandomGroup(seed: seed, size: 3 + Int(seed % 3))
            do {
                for _ in 0..<4_000 { try group.step() }
            } catch {
                Issue.record("seed \(seed): \(error)")
            }
            totals.committed += Int(group.committed)
            totals.elections += group.elections
            totals.snapshots += group.snapshots
            totals.changes += group.changes
            totals.reads += group.reads
        }
        print("random groups: \(seeds) seeds, \(totals)")
        #expect(totals.committed > 10 * Int(seeds))
        #expect(totals.snapshots > 0 && totals.changes > 0 && totals.reads > 0)
    }
}
