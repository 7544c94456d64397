import Raft

// The Raft core alone, storage in memory, all members on one thread. The yardstick is the bare
// append of the same commands to that storage: what no core could do without.
//
//     swift run -c release raft-bench

let command = [UInt8](repeating: 7, count: 100)
let commands = 200_000

/// Seconds that a body takes; the median of five runs.
func seconds(_ body: () throws -> Void) rethrows -> Double {
    var times: [Double] = []
    for _ in 0..<5 {
        let duration = try ContinuousClock().measure(body)
        times.append(
            Double(duration.components.seconds)
                + Double(duration.components.attoseconds) / 1e18)
    }
    return times.sorted()[2]
}

/// A group in which every message arrives at once.
final class Group {
    private var nodes: [RawNode<MemoryStorage>] = []
    private(set) var applied = 0

    init(size: Int) throws {
        let voters = (1...size).map { PeerID(UInt64($0)) }
        for id in voters {
            nodes.append(
                try RawNode(
                    configuration: Configuration(id: id),
                    storage: MemoryStorage(confState: ConfState(voters: voters)),
                    randomTimeout: { $0.lowerBound }))
        }
        nodes[0].campaign()
        try settle()
    }

    func propose(_ entries: [Entry]) throws {
        try nodes[0].propose(entries)
        try settle()
        for node in nodes where node.storage.lastIndex - node.storage.firstIndex > 2_000 {
            try node.storage.compact(to: node.storage.lastIndex - 500)
        }
    }

    private func settle() throws {
        var isDone = false
        while !isDone {
            isDone = true
            for (position, node) in nodes.enumerated() where node.hasReady {
                isDone = false
                let ready = node.ready()
                if let state = ready.hardState { node.storage.setHardState(state) }
                node.storage.append(ready.entries)
                if position == 0 { applied += ready.committedEntries.count }
                node.advance()
                for message in ready.messages {
                    try nodes[Int(message.to.rawValue) - 1].step(message)
                }
            }
        }
    }
}

func bare(batch: Int) throws {
    let storage = MemoryStorage()
    for _ in 0..<commands / batch {
        let next = storage.lastIndex + 1
        storage.append(
            (0..<batch).map { Entry(term: 1, index: next + LogIndex($0), data: command) })
        if storage.lastIndex - storage.firstIndex > 2_000 {
            try storage.compact(to: storage.lastIndex - 500)
        }
    }
}

func run() throws {
    print("group  batch  commands/s   bare appends/s   ratio")
    for size in [1, 3] {
        for batch in [1, 10, 100] {
            let yardstick = try seconds { try bare(batch: batch) }
            let group = try Group(size: size)
            let time = try seconds {
                for _ in 0..<commands / batch {
                    try group.propose((0..<batch).map { _ in Entry(data: command) })
                }
            }
            precondition(group.applied == 5 * commands + 1, "not every command was applied")
            let rate = Int(Double(commands) / time)
            let bareRate = Int(Double(commands) / yardstick)
            print(
                "\(size)      \(batch)\t\(rate)\t\(bareRate)\t\(Double(rate * 1000 / bareRate) / 1000)"
            )
        }
    }
    try idle()
}

/// Members of which nothing is asked.
func idle() throws {
    var nodes: [RawNode<MemoryStorage>] = []
    for _ in 0..<1_000 {
        var configuration = Configuration(id: 3)
        configuration.electionTick = 1_000_000
        nodes.append(
            try RawNode(
                configuration: configuration,
                storage: MemoryStorage(confState: ConfState(voters: [1, 2, 3])),
                randomTimeout: { $0.lowerBound }))
    }
    var ready = 0
    let time = seconds {
        for _ in 0..<200 {
            for node in nodes {
                node.tick()
                if node.hasReady { ready += 1 }
            }
        }
    }
    print("idle: \(Int(time / 200_000 * 1e9)) ns a tick and a look for a Ready, \(ready) found")
}

try run()
