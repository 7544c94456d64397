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
/// Pure; not thread-safe.
struct PendingDeletions: Sendable {
    enum Limits {
        /// Blocks that a node is told of and has not confirmed; a deletion is never cut.
        static let toldBlocks = 8192
        /// How long a deletion that failed on a node waits.
        static let retryNanoseconds: UInt64 = 30_000_000_000
        /// Blocks that wait for datanodes; with more the Ozone Manager keeps them.
        static let blocks = 1 << 20
    }

    private struct Deletion: Sendable {
        var blocks: [BlockID]
        var waiting: [DatanodeID]
    }

    private struct Node: Sendable {
        /// Oldest first. May hold numbers that are confirmed already.
        var untold: Deque<UInt64> = []
        var told: Set<UInt64> = []
        var toldBlocks = 0
        var failed: Deque<(number: UInt64, retry: UInt64)> = []
        /// Of all that it has not confirmed.
        var blocks = 0
    }

    private var deletions: [UInt64: Deletion] = [:]
    private var nodes: [DatanodeID: Node] = [:]
    /// Blocks of all deletions.
    private(set) var blocks = 0

    /// Takes a deletion; numbers ascend.
    mutating func add(_ record: SCMDeletionRecord, number: UInt64) {
        guard !record.waiting.isEmpty, deletions[number] == nil else { return }
        let deletion = Deletion(
            blocks: record.blocks.map { BlockID($0) },
            waiting: record.waiting.map { Identity128($0) })
        deletions[number] = deletion
        blocks += deletion.blocks.count
        for node in deletion.waiting {
            nodes[node, default: Node()].untold.append(number)
            nodes[node]!.blocks += deletion.blocks.count
        }
    }

    /// `node` has done what `number` says.
    mutating func confirm(_ number: UInt64, by node: DatanodeID) {
        guard let place = deletions[number]?.waiting.firstIndex(of: node) else { return }
        deletions[number]!.waiting.remove(at: place)
        let count = deletions[number]!.blocks.count
        nodes[node]?.blocks -= count
        if nodes[node]?.told.remove(number) != nil { nodes[node]!.toldBlocks -= count }
        guard deletions[number]!.waiting.isEmpty else { return }
        deletions[number] = nil
        blocks -= count
    }

    /// `node` could not do what `number` says.
    mutating func fail(_ number: UInt64, by node: DatanodeID, at now: UInt64) {
        guard nodes[node]?.told.remove(number) != nil else { return }
        nodes[node]!.toldBlocks -= deletions[number]?.blocks.count ?? 0
        nodes[node]!.failed.append((number, now + Limits.retryNanoseconds))
    }

    /// Nobody knows what `node` remembers of what it was told.
    mutating func startOver(_ node: DatanodeID) {
        guard var state = nodes.removeValue(forKey: node) else { return }
        state.untold.append(contentsOf: state.told)
        state.untold.append(contentsOf: state.failed.map(\.number))
        state.untold = Deque(state.untold.sorted())
        state.told = []
        state.toldBlocks = 0
        state.failed = []
        nodes[node] = state
    }

    /// Blocks whose deletion `node` has not confirmed.
    func count(of node: DatanodeID) -> Int { nodes[node]?.blocks ?? 0 }

    /// What `node` is to be told now.
    mutating func commands(for node: DatanodeID, at now: UInt64) -> [SCMDatanodeCommand] {
        guard var state = nodes.removeValue(forKey: node) else { return [] }
        defer { nodes[node] = state }
        while let first = state.failed.first, first.retry <= now {
            state.failed.removeFirst()
            state.untold.append(first.number)
        }
        var commands: [SCMDatanodeCommand] = []
        while state.toldBlocks < Limits.toldBlocks, let number = state.untold.popFirst() {
            guard let deletion = deletions[number], deletion.waiting.contains(node) else {
                continue
            }
            state.told.insert(number)
            state.toldBlocks += deletion.blocks.count
            var command = SCMDatanodeCommand()
            command.number = number
            command.deleteBlocks.blocks = deletion.blocks.map(\.message)
            commands.append(command)
        }
        return commands
    }
}
