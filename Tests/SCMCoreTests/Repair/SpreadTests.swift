import Model
import Testing
import Wire

@testable import SCMCore

@Suite("replicas in too few racks")
struct SpreadTests {
    private func racks(_ id: ContainerID, _ rig: RepairRig) -> [Int: Int] {
        rig.places(id).compactMap { $0 }.reduce(into: [:]) { $0[$1 % rig.racks, default: 0] += 1 }
    }

    @Test("what was rebuilt in the racks that were there goes to others when these are back")
    func back() throws {
        // Rack r has the nodes r, r + 3, r + 6, …
        var rig = try RepairRig(nodes: 15, racks: 3)
        let id = try rig.addContainer(1, on: [0, 1, 2, 3, 4])
        rig.tick(3)
        #expect(rig.repairs(id).isEmpty, "two, two and one is as spread as it can be")
        for number in stride(from: 2, to: 15, by: 3) { rig.nodes[number].isUp = false }
        rig.tick(30)
        #expect(racks(id, rig)[2] == nil && racks(id, rig).values.max() == 3)
        #expect(rig.repairs(id).isEmpty, "it is spread over what is there")
        for number in stride(from: 2, to: 15, by: 3) { rig.nodes[number].isUp = true }
        rig.log = []
        rig.tick(12)
        #expect(racks(id, rig).values.sorted() == [1, 2, 2], "\(racks(id, rig))")
        let starts = rig.log.flatMap { $0.startRepairs.starts }
        #expect(starts.map(\.reason) == [.spread])
        #expect(rig.state.safety(at: rig.now).degradedBlocks == 0)
        rig.tick(20)
        #expect(rig.log.flatMap { $0.startRepairs.starts }.count == 1, "nothing moves to and fro")
    }

    @Test("where no other rack can take it, it stays; what is missing goes first")
    func stays() throws {
        var rig = try RepairRig(nodes: 12, racks: 3)
        let id = try rig.addContainer(1, on: [0, 3, 6, 1, 4])
        for number in [2, 5, 8, 11] { rig.nodes[number].free = 300 << 20 }
        for number in [7, 10] { rig.nodes[number].free = 300 << 20 }
        rig.tick(10)
        #expect(rig.repairs(id).isEmpty && rig.places(id) == [0, 3, 6, 1, 4])
        #expect(rig.state.repairs.count == 0, "it holds up nobody")
        rig.seconds = 5
        for number in [2, 5, 8, 11] { rig.nodes[number].free = 1 << 39 }
        rig.lose(id, on: 1)
        rig.log = []
        rig.tick(20)
        // That there is room ends the rest of what found no place.
        let starts = rig.log.flatMap { $0.startRepairs.starts }
        #expect(starts.map(\.reason) == [.rebuild, .spread], "\(starts.map(\.reason))")
        #expect(racks(id, rig).values.sorted() == [1, 2, 2], "\(racks(id, rig))")
    }

    @Test("a rack with few nodes has few replicas: that is no fault")
    func uneven() throws {
        // Rack 0 has four nodes, rack 1 three; then all of rack 1 but one are gone.
        var rig = try RepairRig(nodes: 7, racks: 2)
        let id = try rig.addContainer(1, on: [0, 2, 4, 1, 6])
        for number in [3, 5] { rig.nodes[number].isUp = false }
        rig.tick(25)
        #expect(rig.repairs(id).isEmpty && rig.places(id) == [0, 2, 4, 1, 6])
        #expect(rig.state.repairs.count == 0)
        for number in [3, 5] { rig.nodes[number].isUp = true }
        rig.tick(90)
        #expect(racks(id, rig).values.sorted() == [2, 3], "\(racks(id, rig))")
    }
}
