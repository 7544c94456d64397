import DequeModule
import Model
import Wire

/// The deletions of blocks that not all datanodes have confirmed, and what each node was told.
///
/// A node is told of so many blocks at a time and gets the next as it confirms these, so that
/// neither a long list nor a deletion that cannot be done keeps others waiting: one that fails is
/// told again `Limits.retryNanoseconds` later. A node that registers is told everything anew.
/// What was told is kept in memory alone: to delete a block twice is no error.
///
/// A deletion in a replica that is lost is parked: it is told when the replica is back. What waits
/// for such replicas alone takes none of the room that others have; beyond `Limits.parkedBlocks` it
/// is given up, and a replica that comes back keeps blocks that nobody names.
///
/// Only the SCM that leads tells datanodes. The others keep what is to be told, so that one that
/// begins to lead has nothing to gather.
///
/// Pure; not thread-safe.
struct PendingDeletions: Sendable {
    enum Limits {
        /// Blocks that a node is told of and has not confirmed; a deletion is never cut.
        static let toldBlocks = 8192
        /// How long a deletion that failed on a node waits.
        static let retryNanoseconds: UInt64 = 30_000_000_000
        /// Blocks that wait for datanodes; with more the Ozone Manager keeps them.
        static let blocks = 1 << 20
        /// Blocks that wait for lost replicas alone.
        static let parkedBlocks = 1 << 20
        /// Numbers that are confirmed and kept all the same, beyond as many as are not.
        static let droppedAtOnce = 1024
    }

    private struct Deletion: Sendable {
        var blocks: [BlockID]
        var waiting: [DatanodeID]
        /// Those of `waiting` whose replica is lost.
        var parked: Set<DatanodeID> = []

        /// All are of one container.
        var container: ContainerID? { blocks.first?.containerID }
        var isParked: Bool { !waiting.isEmpty && parked.count == waiting.count }
    }

    struct Node: Sendable {
        /// Oldest first. May hold numbers that are confirmed already, and some twice.
        var untold: Deque<UInt64> = []
        /// How many it has not confirmed.
        var deletions = 0
        var told: Set<UInt64> = []
        var toldBlocks = 0
        var failed: Deque<(number: UInt64, retry: UInt64)> = []
        /// Numbers by container whose replica is lost.
        var parked: [ContainerID: Set<UInt64>] = [:]
        /// Of all that it has not confirmed.
        var blocks = 0
    }

    private var deletions: [UInt64: Deletion] = [:]
    private var byContainer: [ContainerID: Set<UInt64>] = [:]
    private(set) var nodes: [DatanodeID: Node] = [:]
    /// Blocks of all deletions that are not parked on each node they wait for.
    private(set) var blocks = 0
    /// Blocks of those that are.
    private(set) var parkedBlocks = 0
    private var isTelling: Bool

    /// - Parameter isTelling: whether datanodes are told of what is added.
    init(isTelling: Bool = true) { self.isTelling = isTelling }

    /// Datanodes are told from now on: of all that they have not confirmed, for what was told before
    /// was told by another.
    mutating func beginTelling() {
        for node in nodes.keys { takeBack(node) }
        isTelling = true
    }

    /// Nobody is told anything any more.
    mutating func endTelling() { isTelling = false }

    /// What `node` was told, and has not confirmed, it is to be told again.
    private mutating func takeBack(_ node: DatanodeID) {
        guard let state = nodes[node], !state.told.isEmpty || !state.failed.isEmpty else { return }
        let again = (state.told + state.failed.map(\.number)).sorted()
        nodes[node]!.untold.prepend(contentsOf: again)
        nodes[node]!.told = []
        nodes[node]!.toldBlocks = 0
        nodes[node]!.failed = []
    }

    /// What there is, with the datanodes that have not confirmed.
    var all: [UInt64: Set<DatanodeID>] { deletions.mapValues { Set($0.waiting) } }

    /// Takes the row of a deletion as it is now; nil: there is none.
    mutating func take(_ record: SCMDeletionRecord?, number: UInt64) {
        guard let known = deletions[number] else {
            if let record { add(record, number: number) }
            return
        }
        let waiting = Set((record?.waiting ?? []).map { Identity128($0) })
        // Before any is confirmed: one that waits for nobody is gone.
        for node in waiting where !known.waiting.contains(node) { wait(for: node, with: number) }
        for node in known.waiting where !waiting.contains(node) { confirm(number, by: node) }
    }

    /// A node that was given a replica after the deletion was logged is waited for as well.
    private mutating func wait(for node: DatanodeID, with number: UInt64) {
        change(number) { $0.waiting.append(node) }
        note(number, of: deletions[number]?.blocks.count ?? 0, waitsFor: node)
    }

    /// Takes a deletion; numbers ascend.
    mutating func add(_ record: SCMDeletionRecord, number: UInt64) {
        guard !record.waiting.isEmpty, deletions[number] == nil else { return }
        let deletion = Deletion(
            blocks: record.blocks.map { BlockID($0) },
            waiting: record.waiting.map { Identity128($0) })
        add(number, deletion)
    }

    private mutating func add(_ number: UInt64, _ deletion: Deletion) {
        deletions[number] = deletion
        blocks += deletion.blocks.count
        if let container = deletion.container {
            byContainer[container, default: []].insert(number)
        }
        for node in deletion.waiting {
            note(number, of: deletion.blocks.count, waitsFor: node)
        }
    }

    private mutating func note(_ number: UInt64, of count: Int, waitsFor node: DatanodeID) {
        nodes[node, default: Node()].blocks += count
        nodes[node]!.deletions += 1
        nodes[node]!.untold.append(number)
    }

    /// `node` has done what `number` says.
    mutating func confirm(_ number: UInt64, by node: DatanodeID) {
        guard let deletion = deletions[number], deletion.waiting.contains(node) else { return }
        let count = deletion.blocks.count
        nodes[node]?.blocks -= count
        nodes[node]?.deletions -= 1
        if nodes[node]?.told.remove(number) != nil { nodes[node]!.toldBlocks -= count }
        if let container = deletion.container { removeParked(number, of: container, by: node) }
        change(number) { deletion in
            deletion.waiting.removeAll { $0 == node }
            deletion.parked.remove(node)
        }
        dropConfirmed(of: node)
    }

    /// Where nobody is told, what was confirmed is dropped here: at the front at once, behind it when
    /// it is most of all.
    private mutating func dropConfirmed(of node: DatanodeID) {
        guard var state = nodes.removeValue(forKey: node) else { return }
        defer { nodes[node] = state }
        while let first = state.untold.first, deletions[first]?.waiting.contains(node) != true {
            state.untold.removeFirst()
        }
        guard state.untold.count > 2 * state.deletions + Limits.droppedAtOnce else { return }
        var seen: Set<UInt64> = []
        state.untold = state.untold.filter { number in
            deletions[number]?.waiting.contains(node) == true && seen.insert(number).inserted
        }
    }

    /// Changes a deletion and what is counted of it; one that waits for nobody is gone.
    private mutating func change(_ number: UInt64, _ body: (inout Deletion) -> Void) {
        guard var deletion = deletions[number] else { return }
        if deletion.isParked {
            parkedBlocks -= deletion.blocks.count
        } else {
            blocks -= deletion.blocks.count
        }
        body(&deletion)
        deletions[number] = deletion.waiting.isEmpty ? nil : deletion
        guard !deletion.waiting.isEmpty else {
            if let container = deletion.container { forget(number, of: container) }
            return
        }
        if deletion.isParked {
            parkedBlocks += deletion.blocks.count
        } else {
            blocks += deletion.blocks.count
        }
    }

    private mutating func forget(_ number: UInt64, of container: ContainerID) {
        byContainer[container]?.remove(number)
        if byContainer[container]?.isEmpty == true { byContainer[container] = nil }
    }

    /// The deletions in `container` that wait for `node`.
    func numbers(in container: ContainerID, waitingFor node: DatanodeID) -> [UInt64] {
        (byContainer[container] ?? []).filter { deletions[$0]?.waiting.contains(node) == true }
            .sorted()
    }

    /// Calls `body` with each container that a deletion is pending in, and who is waited for.
    func eachContainer(_ body: (ContainerID, Set<DatanodeID>) -> Void) {
        for (container, numbers) in byContainer {
            body(container, Set(numbers.flatMap { deletions[$0]?.waiting ?? [] }))
        }
    }

    // MARK: Lost replicas

    /// The container whose blocks `number` deletes.
    func container(of number: UInt64) -> ContainerID? { deletions[number]?.container }

    /// Keeps a deletion aside until the replica of `node`, which is lost, is back. False, with
    /// nothing changed, if too much is kept so.
    mutating func park(_ number: UInt64, by node: DatanodeID) -> Bool {
        guard let deletion = deletions[number], let container = deletion.container,
            deletion.waiting.contains(node), !deletion.parked.contains(node)
        else { return true }
        let count = deletion.blocks.count
        guard parkedBlocks + count <= Limits.parkedBlocks else { return false }
        if nodes[node]?.told.remove(number) != nil { nodes[node]!.toldBlocks -= count }
        nodes[node, default: Node()].parked[container, default: []].insert(number)
        change(number) { $0.parked.insert(node) }
        return true
    }

    /// The replica of `container` on `node` is there: it is told of what was kept aside.
    mutating func unpark(_ container: ContainerID, by node: DatanodeID) {
        guard let numbers = nodes[node]?.parked.removeValue(forKey: container) else { return }
        nodes[node]!.untold.append(contentsOf: numbers.sorted())
        for number in numbers { change(number) { $0.parked.remove(node) } }
    }

    /// What is kept aside in `container`, by node.
    func parked(of container: ContainerID) -> [DatanodeID: [UInt64]] {
        nodes.compactMapValues { $0.parked[container]?.sorted() }
    }

    private mutating func removeParked(
        _ number: UInt64, of container: ContainerID, by node: DatanodeID
    ) {
        guard nodes[node]?.parked[container]?.remove(number) != nil else { return }
        if nodes[node]?.parked[container]?.isEmpty == true { nodes[node]?.parked[container] = nil }
    }

    /// `node` could not do what `number` says.
    mutating func fail(_ number: UInt64, by node: DatanodeID, at now: UInt64) {
        guard nodes[node]?.told.remove(number) != nil else { return }
        nodes[node]!.toldBlocks -= deletions[number]?.blocks.count ?? 0
        nodes[node]!.failed.append((number, now + Limits.retryNanoseconds))
    }

    /// Nobody knows what `node` remembers of what it was told.
    mutating func startOver(_ node: DatanodeID) { takeBack(node) }

    /// Blocks whose deletion `node` has not confirmed.
    func count(of node: DatanodeID) -> Int { nodes[node]?.blocks ?? 0 }

    /// What `node` is to be told now.
    ///
    /// - Parameter held: containers whose replica it is only being given: what is deleted in them is
    ///   kept aside until the replica is whole, or is not to be (see `unpark`).
    mutating func commands(
        for node: DatanodeID, holding held: Set<ContainerID> = [], at now: UInt64
    ) -> [SCMDatanodeCommand] {
        guard isTelling, var state = nodes.removeValue(forKey: node) else { return [] }
        var kept: [UInt64] = []
        defer {
            nodes[node] = state
            for number in kept where !park(number, by: node) {
                nodes[node]!.failed.append((number, now + Limits.retryNanoseconds))
            }
        }
        while let first = state.failed.first, first.retry <= now {
            state.failed.removeFirst()
            state.untold.append(first.number)
        }
        var commands: [SCMDatanodeCommand] = []
        while state.toldBlocks < Limits.toldBlocks, let number = state.untold.popFirst() {
            guard let deletion = deletions[number], deletion.waiting.contains(node),
                !deletion.parked.contains(node)
            else { continue }
            if let container = deletion.container, held.contains(container) {
                kept.append(number)
                continue
            }
            guard state.told.insert(number).inserted else { continue }
            state.toldBlocks += deletion.blocks.count
            var command = SCMDatanodeCommand()
            command.number = number
            command.deleteBlocks.blocks = deletion.blocks.map(\.message)
            commands.append(command)
        }
        return commands
    }
}
