/// Decides when a server ends a connection that does nothing: looked at in equal steps, by counts of
/// what has happened since. Knows no clock.
struct ConnectionWatch {
    /// What is to be seen of a connection.
    struct Sight {
        /// It has said who it is.
        var hasHello: Bool
        /// The server has begun to end it.
        var isEnding: Bool
        /// Requests begun so far, and those that are not answered.
        var begun: UInt64
        var running: Int
        /// Bytes of answers that are not sent, and sends that have ended.
        var backlog: Int
        var sends: UInt64
    }

    enum Verdict: Equatable {
        case stays
        /// It has not said hello in time.
        case isSilent
        /// It has asked for nothing for long.
        case isIdle
        /// It takes nothing of what it asked for.
        case isStalled
        /// It was told that it ends, and is still there.
        case isOver
    }

    /// Steps that each may last.
    private let helloSteps: Int
    private let idleSteps: Int
    private let stallSteps: Int
    private var silent = 0
    private var idle = 0
    private var stalled = 0
    private var over = 0
    private var begun: UInt64 = 0
    private var sends: UInt64 = 0

    init(_ limits: ServerLimits) {
        func steps(_ duration: Duration) -> Int {
            max(1, Int((duration / limits.interval).rounded(.up)))
        }
        helloSteps = steps(limits.helloTimeout)
        idleSteps = steps(limits.idleTimeout)
        stallSteps = steps(limits.stallTimeout)
    }

    /// What is to become of the connection, after one more step.
    mutating func look(_ sight: Sight) -> Verdict {
        if sight.isEnding {
            over += 1
            return over > 1 ? .isOver : .stays
        }
        guard sight.hasHello else {
            silent += 1
            return silent > helloSteps ? .isSilent : .stays
        }
        stalled = sight.backlog > 0 && sight.sends == sends ? stalled + 1 : 0
        sends = sight.sends
        if stalled > stallSteps { return .isStalled }
        let isQuiet = sight.running == 0 && sight.backlog == 0 && sight.begun == begun
        idle = isQuiet ? idle + 1 : 0
        begun = sight.begun
        return idle > idleSteps ? .isIdle : .stays
    }
}
