/// What must hold after each step.
public enum Property: String, CaseIterable, Sendable {
    /// At most one leader a term (Raft thesis, figure 3.2).
    case electionSafety = "election safety"
    /// A leader never overwrites or deletes entries of its own log (figure 3.2).
    case leaderAppendOnly = "leader append-only"
    /// Entries of the same index and term are the same, and so are all before them (figure 3.2).
    case logMatching = "log matching"
    /// What was committed in a term is in the log of each leader of a later one (figure 3.2).
    case leaderCompleteness = "leader completeness"
    /// No two nodes commit or apply different entries at an index, each applies them in order and
    /// once, none beyond what is committed, and all reach the same state (figure 3.2).
    case stateMachineSafety = "state-machine safety"
    /// All nodes that applied the same entries have the same configuration (chapter 4).
    case sameConfiguration = "same configuration"
    /// The term and the commit index of a node never go back, nor does its vote change within a
    /// term, in memory and on disk; and its log is found without a hole.
    case hardState = "hard state never goes back"
    /// What a node grants or acknowledges is durable on its disk when the message leaves.
    case durablePromise = "promises are durable"
    /// An entry that a leader commits is durable on a majority of the voters, of both halves of
    /// a joint configuration.
    case durableQuorum = "commits are durable on a quorum"
    /// The clients' answers are those of registers that do one operation after another.
    case linearizability = "linearizability"
    /// A change that bears the identity of its call is carried out at one place of the log at most,
    /// and not at all once it was settled.
    case exactlyOnce = "each change once"
    /// What a machine finds after a crash is sound to its member, which goes on with it; no member
    /// stops whose disk works.
    case recovery = "members recover"
    /// Once faults stop, a leader is elected, the clients' operations end and the nodes agree,
    /// all within a stated time.
    case liveness = "liveness"

    /// What the thesis promises, and what clients see: without the checks that look at how a node
    /// keeps its promises, a defect must do harm to be found.
    public static let paper: Set<Property> = [
        .electionSafety, .leaderAppendOnly, .logMatching, .leaderCompleteness,
        .stateMachineSafety, .sameConfiguration, .linearizability,
    ]
}

/// A property that did not hold.
public struct Violation: Error, Equatable, Sendable, CustomStringConvertible {
    public var property: Property
    /// What was seen.
    public var detail: String

    public init(property: Property, detail: String) {
        self.property = property
        self.detail = detail
    }

    public var description: String { "\(property.rawValue): \(detail)" }
}
