@testable import Raft

/// Messages, entries and Readies in the words of the project's own transcripts.
enum TranscriptText {
    static func entry(_ entry: Entry) -> String {
        let place = "\(entry.term)/\(entry.index)"
        switch entry.kind {
        case .normal:
            if entry.data.isEmpty { return "\(place) empty" }
            if entry.data.count > 24 { return "\(place) \(entry.data.count) bytes" }
            return "\(place) \(String(decoding: entry.data, as: UTF8.self))"
        case .confChange, .confChangeV2:
            do {
                let change = try ConfChangeV2(entry: entry)
                if change.leavesJoint { return "\(place) leave" }
                let mode =
                    switch change.transition {
                    case .auto: ""
                    case .jointImplicit: " implicit"
                    case .jointExplicit: " explicit"
                    }
                return "\(place) change\(mode) " + ReferenceText.changes(change.changes)
            } catch {
                return "\(place) unreadable change"
            }
        }
    }

    static func entries(_ entries: [Entry]) -> String {
        "[" + entries.map(entry).joined(separator: ", ") + "]"
    }

    static func members(_ state: ConfState) -> String {
        func list(_ peers: [PeerID]) -> String {
            peers.map(\.description).joined(separator: ",")
        }
        var text = state.voters.isEmpty ? "no voters" : "voters " + list(state.voters)
        if !state.votersOutgoing.isEmpty { text += " leaving " + list(state.votersOutgoing) }
        if !state.learners.isEmpty { text += " learners " + list(state.learners) }
        if !state.learnersNext.isEmpty { text += " then learners " + list(state.learnersNext) }
        return state.autoLeave ? text + " auto" : text
    }

    static func snapshot(_ snapshot: Snapshot) -> String {
        "\(snapshot.metadata.term)/\(snapshot.metadata.index) with "
            + members(snapshot.metadata.confState)
    }

    /// One line: sender, receiver, what, term, and what the kind says.
    static func message(_ message: Message) -> String {
        "\(name(message.from))>\(name(message.to)) " + what(message)
            + (message.term == 0 ? "" : " in \(message.term)") + detail(message)
    }

    static func name(_ peer: PeerID) -> String {
        switch peer {
        case .appendThread: "disk"
        case .applyThread: "machine"
        default: peer.description
        }
    }

    private static func what(_ message: Message) -> String {
        switch message.kind {
        case .appendResponse: message.reject ? "mismatch" : "matched"
        case .voteResponse: message.reject ? "vote refused" : "vote granted"
        case .preVoteResponse: message.reject ? "pre-vote refused" : "pre-vote granted"
        case .heartbeatResponse: "heartbeat answer"
        case .readIndex: "read?"
        case .readIndexResponse: "read"
        case .preVote: "pre-vote?"
        case .vote: "vote?"
        case .storageAppend: "write"
        case .storageAppendResponse: "written"
        case .storageApply: "apply"
        case .storageApplyResponse: "applied"
        case .timeoutNow: "campaign now"
        case .transferLeader: "transfer"
        default: "\(message.kind)"
        }
    }

    private static func detail(_ message: Message) -> String {
        switch message.kind {
        case .append:
            return " after \(message.logTerm)/\(message.index) \(entries(message.entries))"
                + " commit \(message.commit)"
        case .appendResponse where message.reject:
            return " at \(message.index), try \(message.logTerm)/\(message.rejectHint)"
        case .appendResponse: return " to \(message.index)"
        case .vote, .preVote:
            return " log \(message.logTerm)/\(message.index)"
                + (message.context.isEmpty ? "" : " forced")
        case .heartbeat:
            return " commit \(message.commit)" + readNumber(message)
        case .heartbeatResponse: return readNumber(message)
        case .propose: return " \(entries(message.entries))"
        case .readIndex, .readIndexResponse:
            let context = message.entries.first?.data ?? []
            return " \(String(decoding: context, as: UTF8.self))"
                + (message.kind == .readIndex ? "" : " at \(message.index)")
        case .snapshot: return " " + (message.snapshot.map(snapshot) ?? "none")
        case .storageAppend, .storageApply: return storage(message)
        case .storageAppendResponse:
            return (message.index == 0 ? "" : " to \(message.logTerm)/\(message.index)")
                + (message.snapshot.map { " snapshot \(snapshot($0))" } ?? "")
        case .storageApplyResponse: return " to \(message.entries.last?.index ?? 0)"
        default: return ""
        }
    }

    private static func readNumber(_ message: Message) -> String {
        guard let context = HeartbeatContext(decoding: message.context), context.read > 0 else {
            return ""
        }
        return " read #\(context.read)"
    }

    private static func storage(_ message: Message) -> String {
        var text = ""
        if let state = message.hardState, message.kind == .storageAppend {
            text += " vote \(state.vote) commit \(state.commit)"
        }
        if !message.entries.isEmpty { text += " \(entries(message.entries))" }
        if let one = message.snapshot { text += " snapshot \(snapshot(one))" }
        if !message.responses.isEmpty {
            text += " then {" + message.responses.map(self.message).joined(separator: "; ") + "}"
        }
        return text
    }

    /// The lines of a Ready.
    static func ready(_ ready: Ready) -> [String] {
        var lines: [String] = []
        if let state = ready.softState {
            lines.append("is \(state.role), leader \(state.leader)")
        }
        if let state = ready.hardState {
            lines.append("state term \(state.term) vote \(state.vote) commit \(state.commit)")
        }
        for state in ready.readStates {
            let context = String(decoding: state.context, as: UTF8.self)
            lines.append("read \(context) at \(state.index)")
        }
        if !ready.entries.isEmpty { lines.append("log \(entries(ready.entries))") }
        if let one = ready.snapshot { lines.append("install \(snapshot(one))") }
        if !ready.committedEntries.isEmpty {
            lines.append("apply \(entries(ready.committedEntries))")
        }
        for message in ready.messages { lines.append("send \(self.message(message))") }
        if lines.isEmpty { return ["nothing"] }
        if ready.mustSync { lines.insert("sync first", at: 0) }
        return lines
    }
}
