import Raft

/// Which links are cut, each direction for itself, and how long messages take.
public struct Network {
    /// Bit `to` of element `from` is set while that direction is cut.
    private var cut: [UInt64]
    private let nodes: Int

    /// Links of so many nodes, numbered from 1 on, all open.
    public init(nodes: Int) {
        self.nodes = nodes
        cut = [UInt64](repeating: 0, count: nodes + 1)
    }

    /// Whether messages of one node reach another.
    public func isOpen(from: PeerID, to: PeerID) -> Bool {
        cut[Int(from.rawValue)] & (1 << to.rawValue) == 0
    }

    /// Whether nothing is cut.
    public var isWhole: Bool { cut.allSatisfy { $0 == 0 } }

    /// Opens all links.
    public mutating func heal() { for node in cut.indices { cut[node] = 0 } }

    /// Cuts the links of a random kind of partition; returns what was cut, for the trace.
    public mutating func partition(
        oneWay: Bool, leader: PeerID?, from generator: inout SeededGenerator
    ) -> String {
        let isOneWay = oneWay && generator.chance(0.5)
        switch generator.int(in: 0...3) {
        case 0:
            let node = generator.chance(0.6) ? leader : nil
            let alone = node ?? PeerID(UInt64(generator.int(in: 1...nodes)))
            let inward = isOneWay && generator.chance(0.5)
            for other in 1...UInt64(nodes) where PeerID(other) != alone {
                if !isOneWay || inward { cutLink(from: PeerID(other), to: alone) }
                if !isOneWay || !inward { cutLink(from: alone, to: PeerID(other)) }
            }
            return "node \(alone) is cut off"
                + (isOneWay ? (inward ? ", inward" : ", outward") : "")
        case 1:
            let links = generator.int(in: 1...nodes)
            for _ in 0..<links {
                let from = PeerID(UInt64(generator.int(in: 1...nodes)))
                let to = PeerID(UInt64(generator.int(in: 1...nodes)))
                guard from != to else { continue }
                cutLink(from: from, to: to)
                if !isOneWay { cutLink(from: to, to: from) }
            }
            return "\(links) links are cut" + (isOneWay ? ", one way" : "")
        default:
            let side = UInt64(generator.int(in: 1...((1 << nodes) - 1)))
            for from in 1...UInt64(nodes) {
                for to in 1...UInt64(nodes) {
                    let (a, b) = (side >> (from - 1) & 1, side >> (to - 1) & 1)
                    if a != b, !isOneWay || a == 1 { cutLink(from: PeerID(from), to: PeerID(to)) }
                }
            }
            return "a partition of nodes \(String(side, radix: 2))" + (isOneWay ? ", one way" : "")
        }
    }

    /// Cuts some nodes off from all others, both ways.
    public mutating func isolate(_ side: [PeerID]) {
        for other in 1...UInt64(nodes) where !side.contains(PeerID(other)) {
            for node in side {
                cutLink(from: node, to: PeerID(other))
                cutLink(from: PeerID(other), to: node)
            }
        }
    }

    private mutating func cutLink(from: PeerID, to: PeerID) {
        cut[Int(from.rawValue)] |= 1 << to.rawValue
    }
}
