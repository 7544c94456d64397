@testable import Raft

/// The commands of the `confchange/` files, which change one tracker after the other.
struct ConfChangeCommands {
    private var changer = ConfChanger(
        tracker: Tracker(maxInflightMessages: 10, maxInflightBytes: 0), lastIndex: 0)

    /// What the file expects.
    mutating func answer(_ check: DataDrivenCase) -> String {
        defer { changer.lastIndex += 1 }
        guard let changes = Self.changes(check.input) else { return "unknown input" }
        do {
            changer.tracker =
                switch check.command {
                case "simple": try changer.simple(changes)
                case "enter-joint":
                    try changer.enterJoint(
                        autoLeave: check.value("autoleave") == "true", changes)
                case "leave-joint": try changer.leaveJoint()
                default: changer.tracker
                }
        } catch {
            return error.description
        }
        let lines = changer.tracker.progress.map { "\($0.peer): \($0)" }
        return ([changer.tracker.config.description] + lines).joined(separator: "\n")
    }

    /// Changes as in `v1 l2 r3 u4`.
    static func changes(_ text: String) -> [ConfChangeSingle]? {
        var changes: [ConfChangeSingle] = []
        for word in text.split(whereSeparator: { $0 == " " || $0 == "\n" }) {
            guard let peer = UInt64(word.dropFirst()) else { return nil }
            let kind: ConfChangeSingle.Kind
            switch word.first {
            case "v": kind = .addVoter
            case "l": kind = .addLearner
            case "r": kind = .removePeer
            case "u": kind = .updatePeer
            default: return nil
            }
            changes.append(ConfChangeSingle(kind, PeerID(peer)))
        }
        return changes
    }
}
