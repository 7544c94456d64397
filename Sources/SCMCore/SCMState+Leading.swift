import Model
import Wire

// What only the member does that leads: give out numbers, tell datanodes, decide.
//
// No local ID is given out twice. A member gives out those alone that were reserved by an entry of
// its own, whose answer it got; the entry says from where on, and is refused where another one came
// before it: so no two entries reserve the same number, and no two members own it. A member that
// leads again, in whatever term, begins with a reservation of its own. One that leads no more
// without knowing may use up what it owns: nobody else ever gives that out.

extension SCMState {
    /// This member leads in `term`, as it has not before: whatever an earlier leader told datanodes
    /// or gave out counts for nothing. To be called before anything is decided; costs nothing
    /// when it was.
    public mutating func lead(in term: UInt64, at now: UInt64) {
        guard leadingTerm != term else { return }
        leadingTerm = term
        ownLocalIDs = 0..<0
        deletions.beginTelling()
        closings.startOver(at: now)
        beginRepairs()
    }

    /// This member does not lead.
    public mutating func follow() {
        guard leadingTerm != nil else { return }
        leadingTerm = nil
        ownLocalIDs = 0..<0
        deletions.endTelling()
        endRepairs()
    }

    /// A command that was proposed by this member has been applied, and was answered.
    public mutating func noteProposed(_ command: SCMCommand, _ answer: SCMAnswer) {
        lookAgain(after: command)
        // Without saying from where on it would reserve what others may have given out.
        guard command.isConditional, case .changed = answer,
            case .reserveNumbers(let change) = command.command
        else { return }
        let isNext = !ownLocalIDs.isEmpty && ownLocalIDs.upperBound == change.localIdsFrom
        let first = isNext ? ownLocalIDs.lowerBound : change.localIdsFrom
        ownLocalIDs = first..<change.localIdsUntil
    }
}
