@testable import Raft

/// A group for the tests of the thesis' sections: the commands of the transcripts, and a look at
/// what members are afterwards.
struct ThesisGroup {
    private(set) var transcript = TranscriptGroup()

    /// Voters from 1 on, started alike.
    init(_ settings: String = "voters=1,2,3") { run("group \(settings)") }

    /// Members with logs of their own: the terms of their entries from index 1 on.
    init(logs: [[Term]], current: [Term]? = nil) throws {
        let members = ConfState(voters: (1...logs.count).map { PeerID(UInt64($0)) })
        for (offset, log) in logs.enumerated() {
            let storage = InteractionStorage()
            storage.current.metadata.confState = members
            storage.log.append(
                log.enumerated().map {
                    Entry(term: $1, index: LogIndex($0) + 1, data: Array("\($1).\($0)".utf8))
                })
            let term = current?[offset] ?? log.last ?? 0
            storage.log.setHardState(HardState(term: term))
            transcript.append(
                try InteractionNode(
                    Configuration(id: PeerID(UInt64(offset + 1))), restarting: storage))
        }
    }

    /// Runs commands; what the last one answered.
    @discardableResult
    mutating func run(_ commands: String...) -> [String] {
        var answer: [String] = []
        for command in commands { answer = transcript.answer(command) }
        return answer
    }

    /// Gives a member a message, as a peer would.
    mutating func step(_ message: Message) {
        _ = transcript.deliver(message)
    }

    func status(_ member: Int) -> BasicStatus {
        transcript.nodes[member - 1].node.basicStatus
    }

    func role(_ member: Int) -> Role { status(member).softState.role }
    func term(_ member: Int) -> Term { status(member).hardState.term }
    func commit(_ member: Int) -> LogIndex { status(member).hardState.commit }

    /// Who leads, in the latest term that has a leader.
    var leader: Int? {
        (1...transcript.nodes.count).filter { role($0) == .leader }.max { term($0) < term($1) }
    }

    /// The terms of a member's persisted entries.
    func log(_ member: Int) -> [Term] {
        let log = transcript.nodes[member - 1].storage.log
        let entries = try? log.entries(
            from: log.firstIndex, to: log.lastIndex + 1, maxSize: .max)
        return (entries ?? []).map(\.term)
    }

    /// The commands that a member's state machine has applied.
    func applied(_ member: Int) -> [String] {
        transcript.nodes[member - 1].appliedEntries
            .filter { $0.kind == .normal && !$0.data.isEmpty }
            .map { String(decoding: $0.data, as: UTF8.self) }
    }

    /// Messages that wait to be delivered.
    var bag: [Message] { transcript.waiting }

    /// Elects a member by the votes of others, with no message to anyone else.
    mutating func elect(_ member: Int, by voters: [Int]) {
        let all = Set(1...transcript.nodes.count)
        let others = all.subtracting(voters).subtracting([member])
        run("campaign \(member)", "ready \(member)")
        for other in others { run("drop \(other)") }
        for voter in voters { run("deliver \(voter)", "ready \(voter)") }
        run("deliver \(member)")
    }
}
