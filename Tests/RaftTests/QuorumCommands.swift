@testable import Raft

/// The commands of the `quorum/` files: the committed index and the vote result of a majority or
/// of two joint ones.
struct QuorumCommands {
    private let peers: [PeerID]
    private let joint: JointConfig
    private let isJoint: Bool
    private let values: [String]

    init(_ check: DataDrivenCase) {
        let incoming = (check.values("cfg") ?? []).compactMap { UInt64($0) }.map { PeerID($0) }
        let outgoing = (check.values("cfgj") ?? []).compactMap { UInt64($0) }.map { PeerID($0) }
        isJoint = check.values("cfgj") != nil
        joint = JointConfig(
            incoming: MajorityConfig(incoming), outgoing: MajorityConfig(outgoing))
        var peers: [PeerID] = []
        for peer in incoming + outgoing where !peers.contains(peer) { peers.append(peer) }
        self.peers = peers
        values = check.values("idx") ?? check.values("votes") ?? []
    }

    /// What the file expects.
    func answer(_ check: DataDrivenCase) -> String {
        if values.count != peers.count {
            let voters = peers.sorted().map(\.description).joined(separator: " ")
            let numbers = values.map { value in
                switch value {
                case "y": "2"
                case "n": "1"
                case "_": "0"
                default: value
                }
            }
            return "error: mismatched input (explicit or _) for voters "
                + "map[\(voters)]: [\(numbers.joined(separator: " "))]"
        }
        switch check.command {
        case "committed": return committed()
        case "vote": return vote()
        default: return "unknown command \(check.command)"
        }
    }

    private func committed() -> String {
        var acknowledged: [PeerID: LogIndex] = [:]
        for (peer, value) in zip(peers, values) { acknowledged[peer] = LogIndex(value) }
        let index = joint.committedIndex { acknowledged[$0] }
        var text = describe(acknowledged)
        let swapped = JointConfig(incoming: joint.outgoing, outgoing: joint.incoming)
        let others: [(String, LogIndex)] =
            if isJoint {
                [("symmetry", swapped.committedIndex { acknowledged[$0] })]
            } else {
                [
                    ("majority alone", joint.incoming.committedIndex { acknowledged[$0] }),
                    (
                        "self-joint quorum",
                        JointConfig(incoming: joint.incoming, outgoing: joint.incoming)
                            .committedIndex { acknowledged[$0] }
                    ),
                    ("counting", countedIndex(acknowledged)),
                ]
            }
        for (name, other) in others where other != index {
            text += "\(other) <-- via \(name)\n"
        }
        return text + (index == .max ? "∞" : "\(index)")
    }

    /// The largest index that more than half of the voters reach, found by trying each.
    private func countedIndex(_ acknowledged: [PeerID: LogIndex]) -> LogIndex {
        let voters = joint.incoming.voters
        if voters.isEmpty { return .max }
        var best: LogIndex = 0
        for index in acknowledged.values {
            let reached = voters.count { (acknowledged[$0] ?? 0) >= index }
            if reached > voters.count / 2 { best = max(best, index) }
        }
        return best
    }

    private func vote() -> String {
        var votes: [PeerID: Bool] = [:]
        for (peer, value) in zip(peers, values) where value != "_" { votes[peer] = value == "y" }
        let result = joint.voteResult { votes[$0] }
        let swapped = JointConfig(incoming: joint.outgoing, outgoing: joint.incoming)
        var text = ""
        if swapped.voteResult({ votes[$0] }) != result { text += "<-- via symmetry\n" }
        switch result {
        case .pending: return text + "VotePending"
        case .lost: return text + "VoteLost"
        case .won: return text + "VoteWon"
        }
    }

    /// The voters' indexes as bars, the longer the more voters are behind.
    private func describe(_ acknowledged: [PeerID: LogIndex]) -> String {
        let voters = joint.all
        if voters.isEmpty { return "<empty majority quorum>" }
        let count = voters.count
        var text = String(repeating: " ", count: count) + "    idx\n"
        for voter in voters {
            let bar = voters.count { (acknowledged[$0] ?? 0) < (acknowledged[voter] ?? 0) }
            if acknowledged[voter] == nil {
                text += "?" + String(repeating: " ", count: count)
            } else {
                text += String(repeating: "x", count: bar) + ">"
                text += String(repeating: " ", count: count - bar)
            }
            let number = String(acknowledged[voter] ?? 0)
            text += " " + String(repeating: " ", count: max(0, 5 - number.count)) + number
            text += "    (id=\(voter))\n"
        }
        return text
    }
}
