/// A deliberate defect of the node around the core, or of what reaches the core: each is found by
/// the checkers within a stated number of seeds, which shows that they bite.
///
/// Defects that only an edit of the core itself can express are in `Tests/Mutants`.
public enum Mutation: String, CaseIterable, Sendable {
    // Persistence

    /// Messages leave when a write is issued rather than when it is durable.
    case acknowledgesBeforeSync
    /// A snapshot's acknowledgement does so, all else waits.
    case acknowledgesSnapshotBeforeSync
    /// The vote is not read back after a crash.
    case forgetsVote
    /// Neither are term and vote: the term is that of the last entry.
    case forgetsTerm
    /// A new term or vote is kept in memory until the next entries are written.
    case writesHardStateLate
    /// Entries that replace others are left out where the log already has some.
    case keepsConflictingEntries
    /// Recovery goes on behind a batch that was torn.
    case ignoresDamage
    /// The log is compacted up to what is applied rather than to what a checkpoint holds.
    case compactsBeyondCheckpoint

    // Elections

    /// Votes are granted whatever the candidate's log is.
    case votesWithoutLogCheck
    /// Votes are granted to each candidate of a term.
    case votesTwice
    /// A leader that hears of a higher term takes it for its own and goes on.
    case leadsOnInHigherTerm

    // Replication

    /// The entry before those of an append is not compared.
    case skipsPreviousEntryCheck
    /// A follower takes appends of leaders of earlier terms.
    case acceptsStaleTerm
    /// A rejected append is acknowledged.
    case acknowledgesRejected
    /// A heartbeat's commit index is not cut to what the follower is known to have.
    case commitsByHeartbeat

    // Applying

    /// Entries are applied once they are durable, committed or not.
    case appliesUncommitted
    /// A checkpoint stands for one entry less than it holds.
    case appliesTwice
    /// The checkpoint's term is the node's rather than the entry's.
    case snapshotsWrongTerm
    /// The clients' sessions are not in the snapshot.
    case leavesOutSessions
    /// The checkpoint's members are those of the start.
    case losesConfiguration
    /// A configuration change is not applied by the node that restarts with it in its log.
    case skipsConfChangeAfterRestart

    // Reads

    /// A node that believes it leads answers reads at once.
    case readsWithoutRound
    /// Any node answers reads at once.
    case readsFromFollower
    /// A read does not wait until its index is applied.
    case readsBeforeApplied
    /// Lease reads are served though clocks drift by more than a lease allows.
    case leaseBeyondDrift
}
