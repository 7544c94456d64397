import Reactor

/// What is held against one datanode that was late, for readers or for writers. Pure.
///
/// Each time that one goes on without it, it is avoided for twice as long as the time before. Then
/// it is tried: one at a time begins with it, until some answers came in time; or until nothing was
/// heard of it for a while, since it is dead, or gets nothing that is new. How often it was
/// late is forgotten step by step, so that a node which is now slow and now well is avoided for
/// longer than one that had a hiccup.
struct Probation {
    enum Limits {
        /// How long a node is avoided that was late for the first time in a while.
        static let avoidance = ClientLimits.avoidance
        /// Times that the avoidance is doubled at most.
        static let doublings = 4
        /// For each time so long without being late one is forgotten; and one that is to be tried,
        /// when so long no answer came.
        static let forgetting = Duration.seconds(30)
        /// Answers in time after which a node is trusted again.
        static let trial = 4
        /// Between two that try it, unless the first has had an answer.
        static let trialPause = Duration.milliseconds(200)
    }

    /// Times that it was late, as far as they are not forgotten.
    private(set) var times = 0
    private(set) var avoidedUntil = MonotonicTime(nanoseconds: 0)
    private var nextTrial = MonotonicTime(nanoseconds: 0)
    /// Answers still to come in time; 0: it is trusted.
    private var answersToCome = 0
    /// When it answered last since it was late, or the end of the avoidance.
    private var heardOf = MonotonicTime(nanoseconds: 0)

    /// Somebody goes on without the node. Whoever began before that was known does not make it worse.
    mutating func wasLate(at now: MonotonicTime) {
        guard now >= avoidedUntil else { return }
        let forgotten = Int(avoidedUntil.duration(to: now) / Limits.forgetting)
        times = min(max(0, times - forgotten), Limits.doublings) + 1
        avoidedUntil = now.advanced(by: Limits.avoidance * (1 << (times - 1)))
        nextTrial = avoidedUntil
        heardOf = avoidedUntil
        answersToCome = Limits.trial
    }

    /// The node has answered, in time or not.
    mutating func answered(inTime: Bool, at now: MonotonicTime) {
        guard isTried(at: now) else { return }
        heardOf = now
        guard inTime else {
            answersToCome = Limits.trial
            return
        }
        answersToCome -= 1
        nextTrial = now
    }

    /// It is left alone, if there is a way without it.
    func isAvoided(at now: MonotonicTime) -> Bool { avoidedUntil > now }

    /// It is not avoided any more, but has not shown that it is well.
    func isTried(at now: MonotonicTime) -> Bool {
        answersToCome > 0 && !isAvoided(at: now) && heardOf.duration(to: now) < Limits.forgetting
    }

    /// It is avoided, or has yet to be tried.
    func isSuspect(at now: MonotonicTime) -> Bool { isAvoided(at: now) || isTried(at: now) }

    /// Whether the caller is to begin with it, to try it.
    mutating func takeTrial(at now: MonotonicTime) -> Bool {
        guard now >= nextTrial, isTried(at: now) else { return false }
        nextTrial = now.advanced(by: Limits.trialPause)
        return true
    }
}
