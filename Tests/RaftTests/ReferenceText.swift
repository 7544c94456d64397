@testable import Raft

/// Messages, entries and Readies in the text of etcd's core, to be compared with its data.
enum ReferenceText {
    static func kind(_ kind: MessageKind) -> String {
        switch kind {
        case .hup: "MsgHup"
        case .beat: "MsgBeat"
        case .propose: "MsgProp"
        case .append: "MsgApp"
        case .appendResponse: "MsgAppResp"
        case .vote: "MsgVote"
        case .voteResponse: "MsgVoteResp"
        case .snapshot: "MsgSnap"
        case .heartbeat: "MsgHeartbeat"
        case .heartbeatResponse: "MsgHeartbeatResp"
        case .unreachable: "MsgUnreachable"
        case .snapshotStatus: "MsgSnapStatus"
        case .checkQuorum: "MsgCheckQuorum"
        case .transferLeader: "MsgTransferLeader"
        case .timeoutNow: "MsgTimeoutNow"
        case .readIndex: "MsgReadIndex"
        case .readIndexResponse: "MsgReadIndexResp"
        case .preVote: "MsgPreVote"
        case .preVoteResponse: "MsgPreVoteResp"
        case .storageAppend: "MsgStorageAppend"
        case .storageAppendResponse: "MsgStorageAppendResp"
        case .storageApply: "MsgStorageApply"
        case .storageApplyResponse: "MsgStorageApplyResp"
        case .forgetLeader: "MsgForgetLeader"
        }
    }

    static func role(_ role: Role) -> String {
        switch role {
        case .follower: "StateFollower"
        case .candidate: "StateCandidate"
        case .leader: "StateLeader"
        case .preCandidate: "StatePreCandidate"
        }
    }

    static func entry(_ entry: Entry) -> String {
        switch entry.kind {
        case .normal:
            return "\(entry.term)/\(entry.index) EntryNormal \(quoted(entry.data))"
        case .confChange, .confChangeV2:
            let name = entry.kind == .confChange ? "EntryConfChange" : "EntryConfChangeV2"
            let changes =
                (try? ConfChangeV2(entry: entry)).map { self.changes($0.changes) } ?? "?"
            return "\(entry.term)/\(entry.index) \(name)" + (changes.isEmpty ? "" : " " + changes)
        }
    }

    static func changes(_ changes: [ConfChangeSingle]) -> String {
        changes.map { change in
            switch change.kind {
            case .addVoter: "v\(change.peer)"
            case .addLearner: "l\(change.peer)"
            case .removePeer: "r\(change.peer)"
            case .updatePeer: "u\(change.peer)"
            }
        }.joined(separator: " ")
    }

    /// As Go quotes a string of plain characters.
    static func quoted(_ data: [UInt8]) -> String {
        let text = String(decoding: data, as: UTF8.self)
        return "\"" + text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"") + "\""
    }

    static func snapshot(_ snapshot: Snapshot) -> String {
        func list(_ peers: [PeerID]) -> String {
            "[" + peers.map(\.description).joined(separator: " ") + "]"
        }
        let state = snapshot.metadata.confState
        return "Index:\(snapshot.metadata.index) Term:\(snapshot.metadata.term) "
            + "ConfState:Voters:\(list(state.voters)) "
            + "VotersOutgoing:\(list(state.votersOutgoing)) "
            + "Learners:\(list(state.learners)) LearnersNext:\(list(state.learnersNext)) "
            + "AutoLeave:\(state.autoLeave)"
    }

    /// Without a line end; what does not fit on one line is indented below it.
    static func message(_ message: Message, indent: String = "") -> String {
        var text = "\(indent)\(message.from)->\(message.to) \(kind(message.kind)) "
        text += "Term:\(message.term) Log:\(message.logTerm)/\(message.index)"
        if message.reject { text += " Rejected (Hint: \(message.rejectHint))" }
        if message.commit != 0 { text += " Commit:\(message.commit)" }
        if message.vote != .none { text += " Vote:\(message.vote)" }
        if message.entries.count == 1 {
            text += " Entries:[\(entry(message.entries[0]))]"
        } else if message.entries.count > 1 {
            text += " Entries:["
            for one in message.entries { text += "\n\(indent)  \(entry(one))" }
            text += "\n\(indent)]"
        }
        if let one = message.snapshot, !one.isEmpty {
            text += "\n\(indent)  Snapshot: \(snapshot(one))"
        }
        if !message.responses.isEmpty {
            text += " Responses:["
            for one in message.responses {
                text += "\n" + self.message(one, indent: indent + "  ")
            }
            text += "\n\(indent)]"
        }
        return text
    }

    static func hardState(_ state: HardState) -> String {
        "Term:\(state.term)" + (state.vote == .none ? "" : " Vote:\(state.vote)")
            + " Commit:\(state.commit)"
    }

    static func ready(_ ready: Ready) -> String {
        var text = ""
        if let state = ready.softState {
            text += "Lead:\(state.leader) State:\(role(state.role))\n"
        }
        if let state = ready.hardState { text += "HardState \(hardState(state))\n" }
        if !ready.readStates.isEmpty {
            let states = ready.readStates.map { state in
                "{\(state.index) \(state.context)}"
            }
            text += "ReadStates [\(states.joined(separator: " "))]\n"
        }
        if !ready.entries.isEmpty {
            text += "Entries:\n" + ready.entries.map { entry($0) + "\n" }.joined()
        }
        if let one = ready.snapshot { text += "Snapshot \(snapshot(one))\n" }
        if !ready.committedEntries.isEmpty {
            text +=
                "CommittedEntries:\n"
                + ready.committedEntries.map { entry($0) + "\n" }.joined()
        }
        if !ready.messages.isEmpty {
            text += "Messages:\n" + ready.messages.map { message($0) + "\n" }.joined()
        }
        if text.isEmpty { return "<empty Ready>\n" }
        return "Ready MustSync=\(ready.mustSync):\n" + text
    }
}
