import Glibc
import Reactor
import Simulator

/// The file system of one machine: files and directories as processes see them, and what of them is
/// on the medium.
///
/// What is written is seen at once and is on the medium only when a sync that began afterwards has
/// ended; of the rest a power cut keeps what it likes, file by file and in blocks of 512 bytes.
/// Creations, renames and removals are durable when their directory is synced; of the rest a power
/// cut keeps the first so many in each directory.
final class SimulatedFiles {
    /// A change of a file that may not be on the medium.
    enum Change {
        case write(offset: Int, [UInt8])
        case resize(Int)
        case zero(Range<Int>)
    }

    /// A file or a directory.
    final class Node {
        let isDirectory: Bool
        /// As processes see it.
        var content: [UInt8] = []
        /// What a power cut cannot take, and changes since in their order.
        var durable: [UInt8] = []
        var changes: [Change] = []
        /// Those of `changes` that were made durable alone, by their place.
        var forced: Set<Int> = []
        /// Changes that were made before those in `changes`.
        var settled = 0
        var entries: [String: Node] = [:]
        var durableEntries: [String: Node] = [:]
        var names: [(name: String, node: Node?)] = []
        var settledNames = 0

        init(isDirectory: Bool) { self.isDirectory = isDirectory }

        /// The same contents, and no names.
        init(copying other: Node) {
            isDirectory = other.isDirectory
            content = other.content
            durable = other.durable
            changes = other.changes
            forced = other.forced
            settled = other.settled
            settledNames = other.settledNames
        }
    }

    /// How much a power cut takes of what was not synced in one file.
    enum Loss: CaseIterable {
        case all, nothing, end, anyBlocks
    }

    static let block = 512

    private let root: Node
    /// In the order of their making.
    private var nodes: [Node] = []

    init() { root = Node(isDirectory: true) }

    /// The same files, on a disk of their own.
    init(copying other: SimulatedFiles) {
        var copies: [ObjectIdentifier: Node] = [:]
        func copy(_ node: Node) -> Node {
            if let known = copies[ObjectIdentifier(node)] { return known }
            let new = Node(copying: node)
            copies[ObjectIdentifier(node)] = new
            new.entries = node.entries.mapValues(copy)
            new.durableEntries = node.durableEntries.mapValues(copy)
            new.names = node.names.map { ($0.name, $0.node.map(copy)) }
            return new
        }
        root = copy(other.root)
        nodes = other.nodes.map(copy)
    }

    // MARK: Names

    /// nil if there is nothing.
    func find(_ path: String) -> Node? {
        var node = root
        for name in path.split(separator: "/") {
            guard let next = node.entries[String(name)] else { return nil }
            node = next
        }
        return node
    }

    private func parent(_ path: String) -> (Node, String)? {
        let names = path.split(separator: "/")
        guard let last = names.last else { return nil }
        guard let folder = find(names.dropLast().joined(separator: "/")), folder.isDirectory
        else { return nil }
        return (folder, String(last))
    }

    private func set(_ name: String, in folder: Node, to node: Node?) {
        folder.entries[name] = node
        folder.names.append((name, node))
    }

    /// The file that `flags` of open(2) ask for, or -errno.
    func open(_ path: String, flags: Int32) -> Result<Node, IOError> {
        if let node = find(path) {
            if flags & O_CREAT != 0, flags & O_EXCL != 0 { return failure(EEXIST, path) }
            if flags & O_TRUNC != 0, !node.content.isEmpty { change(node, .resize(0)) }
            return .success(node)
        }
        guard flags & O_CREAT != 0, let (folder, name) = parent(path) else {
            return failure(ENOENT, path)
        }
        let node = Node(isDirectory: false)
        nodes.append(node)
        set(name, in: folder, to: node)
        return .success(node)
    }

    func makeDirectory(_ path: String) -> Int32 {
        guard let (folder, name) = parent(path) else { return -ENOENT }
        guard folder.entries[name] == nil else { return -EEXIST }
        let node = Node(isDirectory: true)
        nodes.append(node)
        set(name, in: folder, to: node)
        return 0
    }

    func remove(_ path: String) -> Int32 {
        guard let (folder, name) = parent(path), let node = folder.entries[name] else {
            return -ENOENT
        }
        guard node.entries.isEmpty else { return -ENOTEMPTY }
        set(name, in: folder, to: nil)
        return 0
    }

    func rename(_ from: String, to target: String) -> Int32 {
        guard let (old, oldName) = parent(from), let (new, newName) = parent(target),
            let node = old.entries[oldName]
        else { return -ENOENT }
        precondition(old === new, "a rename from one directory to another is not simulated")
        old.entries[oldName] = nil
        old.entries[newName] = node
        // One step: a power cut leaves the old name or the new one.
        old.names.append((oldName + "\0" + newName, node))
        return 0
    }

    func list(_ path: String) -> [String]? { find(path)?.entries.keys.sorted() }

    // MARK: Contents

    func change(_ node: Node, _ change: Change) {
        node.changes.append(change)
        Self.apply(change, to: &node.content)
    }

    /// The change that was made last is on the medium, whatever becomes of those before it.
    func force(_ node: Node, _ change: Int) {
        if change >= node.settled { node.forced.insert(change - node.settled) }
    }

    /// How many changes a sync that begins now makes durable.
    func mark(_ node: Node) -> Int {
        node.isDirectory
            ? node.settledNames + node.names.count : node.settled + node.changes.count
    }

    /// A sync that began at `mark` has ended.
    func synchronize(_ node: Node, through mark: Int) {
        if node.isDirectory {
            let count = mark - node.settledNames
            guard count > 0 else { return }
            for step in node.names[..<count] { Self.apply(step, to: &node.durableEntries) }
            node.names.removeFirst(count)
            node.settledNames = mark
            return
        }
        let count = mark - node.settled
        guard count > 0 else { return }
        for change in node.changes[..<count] { Self.apply(change, to: &node.durable) }
        node.changes.removeFirst(count)
        node.forced = Set(node.forced.compactMap { $0 >= count ? $0 - count : nil })
        node.settled = mark
    }

    private static func apply(
        _ step: (name: String, node: Node?), to entries: inout [String: Node]
    ) {
        let names = step.name.split(separator: "\0")
        if names.count == 2 { entries[String(names[0])] = nil }
        entries[String(names[names.count - 1])] = step.node
    }

    private static func apply(_ change: Change, to bytes: inout [UInt8]) {
        switch change {
        case .resize(let size):
            if size < bytes.count {
                bytes.removeLast(bytes.count - size)
            } else {
                bytes.append(contentsOf: repeatElement(0, count: size - bytes.count))
            }
        case .write(let offset, let data):
            let end = offset + data.count
            if end > bytes.count {
                bytes.append(contentsOf: repeatElement(0, count: end - bytes.count))
            }
            bytes.replaceSubrange(offset..<end, with: data)
        case .zero(let range):
            for place in range.clamped(to: 0..<bytes.count) { bytes[place] = 0 }
        }
    }

    // MARK: Power

    /// The power fails: what is on the medium is all there is.
    func cutPower(_ generator: inout SeededGenerator) {
        for node in [root] + nodes {
            if node.isDirectory {
                let kept = node.names.isEmpty ? 0 : generator.int(in: 0...node.names.count)
                for step in node.names[..<kept] { Self.apply(step, to: &node.durableEntries) }
                node.settledNames += node.names.count
                node.names = []
                node.entries = node.durableEntries
            } else {
                lose(node, &generator)
            }
        }
        forgetUnnamed()
    }

    private func lose(_ node: Node, _ generator: inout SeededGenerator) {
        defer {
            node.settled += node.changes.count
            node.changes = []
            node.forced = []
            node.content = node.durable
        }
        guard !node.changes.isEmpty else { return }
        let loss = generator.element(of: Loss.allCases) ?? .all
        let end = generator.int(in: 0...(node.changes.count - 1))
        for (place, change) in node.changes.enumerated() {
            let isKept =
                switch loss {
                case .all: false
                case .nothing: true
                case .end: place < end
                case .anyBlocks: false
                }
            if isKept || node.forced.contains(place) {
                Self.apply(change, to: &node.durable)
            } else if loss == .anyBlocks || (loss == .end && place == end) {
                tear(change, of: node, &generator)
            }
        }
    }

    /// Any blocks of a write reach the medium.
    private func tear(_ change: Change, of node: Node, _ generator: inout SeededGenerator) {
        guard case .write(let offset, let data) = change else {
            if generator.chance(0.5) { Self.apply(change, to: &node.durable) }
            return
        }
        var at = 0
        while at < data.count {
            let end = min(data.count, at + Self.block - (offset + at) % Self.block)
            if generator.chance(0.5) {
                Self.apply(.write(offset: offset + at, Array(data[at..<end])), to: &node.durable)
            }
            at = end
        }
    }

    /// Files without a name are gone with the processes that had them open.
    func forgetUnnamed() {
        var reachable: Set<ObjectIdentifier> = []
        var waiting = [root]
        while let node = waiting.popLast() {
            guard reachable.insert(ObjectIdentifier(node)).inserted else { continue }
            waiting += node.entries.values
            waiting += node.durableEntries.values
            for step in node.names { step.node.map { waiting.append($0) } }
        }
        nodes.removeAll { !reachable.contains(ObjectIdentifier($0)) }
    }

    private func failure<Value>(_ code: Int32, _ path: String) -> Result<Value, IOError> {
        .failure(IOError(code: code, operation: "open", path: path))
    }
}
