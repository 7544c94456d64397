import Foundation
import Linearizability
import Model
import Reactor
import Synchronization

/// What was done with one key, while it is being worked on. Thread-safe.
final class ConsistencyHistory: Sendable {
    private struct State {
        var operations: [KeyOperation] = []
        var begun = 0
        var underWay = 0
        var unanswered = 0
        var isRetired = false
        var lastSeen: UInt64?
    }

    let name: String
    private let state = Mutex(State())

    init(name: String) { self.name = name }

    var operations: [KeyOperation] { state.withLock { $0.operations } }
    /// What somebody was told last that is there; nil: nothing.
    var lastSeen: UInt64? { state.withLock { $0.lastSeen } }

    /// One more operation begins; false: the key has had enough.
    func begin() -> Bool {
        state.withLock { state in
            guard !state.isRetired else { return false }
            guard state.begun < ConsistencyLoad.Limits.operations,
                state.unanswered < ConsistencyLoad.Limits.unanswered
            else {
                state.isRetired = true
                return false
            }
            state.begun += 1
            state.underWay += 1
            return true
        }
    }

    /// Whether nobody works on it any more now that another took its place.
    var isIdle: Bool { state.withLock { $0.isRetired && $0.underWay == 0 } }

    /// An operation has ended; true: it was the last.
    func end(_ operation: KeyOperation?) -> Bool {
        state.withLock { state in
            state.underWay -= 1
            if let operation {
                state.operations.append(operation)
                if operation.answer == nil { state.unanswered += 1 }
                switch (operation.action, operation.answer) {
                case (.put(let value, _), .done): state.lastSeen = value
                case (.get, .value(let value)): state.lastSeen = value
                case (.delete, .deleted): state.lastSeen = nil
                default: break
                }
            }
            return state.isRetired && state.underWay == 0
        }
    }
}

/// Checks histories one after the other: a search takes a core, and may take a GiB of memory, while
/// any number of clients have one that is to be checked.
actor ConsistencyChecks {
    func verdict(on operations: [KeyOperation]) -> LinearizabilityCheck.Verdict {
        LinearizabilityCheck.verdict(on: operations)
    }
}

/// What all clients of a run share. Thread-safe.
final class ConsistencyBoard: Sendable {
    private struct State {
        var slots: [ConsistencyHistory]
        var names = 0
        /// Retired, nobody works on them, and they are to be checked.
        var idle: [ConsistencyHistory] = []
        var report: ConsistencyReport
        var undecided = 0
        var violated = 0
    }

    let pauses = WritePauses()
    let checks = ConsistencyChecks()
    private let state: Mutex<State>
    private let values = Atomic<UInt64>(0)
    private let prefix: String

    init(keys: Int, prefix: String, seed: UInt64) {
        self.prefix = prefix
        let slots = (0..<keys).map { ConsistencyHistory(name: "\(prefix)/\($0)") }
        state = Mutex(State(slots: slots, names: keys, report: ConsistencyReport(seed: seed)))
    }

    /// One that nobody has put yet.
    func newValue() -> UInt64 { values.wrappingAdd(1, ordering: .relaxed).newValue }

    /// The key at `slot`, for one more operation.
    func begin(_ slot: Int) -> ConsistencyHistory {
        state.withLock { state in
            while true {
                let history = state.slots[slot]
                if history.begin() { return history }
                // Whoever ends its last operation checks it, unless that has ended before.
                if history.isIdle { state.idle.append(history) }
                state.slots[slot] = ConsistencyHistory(name: "\(prefix)/\(state.names)")
                state.names += 1
            }
        }
    }

    /// An operation has ended; a key that is to be checked now, if there is one.
    func end(_ history: ConsistencyHistory, _ operation: KeyOperation?) -> ConsistencyHistory? {
        history.end(operation) ? history : state.withLock { $0.idle.popLast() }
    }

    /// The keys that are left when all clients have ended.
    func rest() -> [ConsistencyHistory] {
        state.withLock { state in
            defer {
                state.slots = []
                state.idle = []
            }
            return state.slots + state.idle
        }
    }

    func note(_ outcome: ConsistencyLoad.Outcome, of action: Register.Action) {
        if case .answered(.done) = outcome { pauses.note() }
        if case .answered(.deleted(existed: true)) = outcome { pauses.note() }
        state.withLock { state in
            switch outcome {
            case .answered(let answer):
                state.report.outcomes["\(action.name) \(answer.name)", default: 0] += 1
            case .unknown(let error):
                state.report.unanswered += 1
                state.report.note(error, of: action.name)
            case .notMade(let error): state.report.note(error, of: action.name)
            }
        }
    }

    /// Whether there is room for one more history that is written down.
    var mayTell: Bool {
        state.withLock { $0.report.histories.count < ConsistencyLoad.Limits.histories }
    }

    func conclude(
        _ operations: [KeyOperation], _ verdict: LinearizabilityCheck.Verdict, _ file: String?
    ) {
        state.withLock { state in
            state.report.operations += operations.count
            state.report.keys += 1
            switch verdict {
            case .linearizable: break
            case .undecided: state.undecided += 1
            case .violated: state.violated += 1
            }
            if let file { state.report.histories.append(file) }
        }
    }

    func report(since start: MonotonicTime) -> ConsistencyReport {
        var report = state.withLock { state in
            state.report.verdict =
                state.violated > 0 ? .violated : state.undecided > 0 ? .undecided : .linearizable
            return state.report
        }
        report.seconds =
            Double(MonotonicTime.now().nanoseconds - start.nanoseconds) / 1e9
        (report.longestPauseSeconds, report.pauses) = pauses.found
        return report
    }
}

extension ConsistencyReport {
    fileprivate mutating func note(_ error: StoreError, of action: String) {
        let name = "\(action) \(error.code)"
        errors[name, default: 0] += 1
        examples[name] = error.message
    }
}

/// The times in which no write succeeded. Thread-safe.
final class WritePauses: Sendable {
    private struct State {
        var last = MonotonicTime.now().nanoseconds
        var longest = 0.0
        var told: [ConsistencyReport.Pause] = []
    }

    private let state = Mutex(State())

    /// A write has succeeded.
    func note() {
        let now = MonotonicTime.now().nanoseconds
        state.withLock { state in
            defer { state.last = max(state.last, now) }
            guard now > state.last else { return }
            let seconds = Double(now - state.last) / 1e9
            state.longest = max(state.longest, seconds)
            guard seconds >= ConsistencyLoad.Limits.toldPause,
                state.told.count < ConsistencyLoad.Limits.pauses
            else { return }
            state.told.append(
                .init(began: Date().timeIntervalSince1970 - seconds, seconds: seconds))
        }
    }

    /// The run is over: the time since the last write counts too.
    func end() { note() }

    var found: (longest: Double, told: [ConsistencyReport.Pause]) {
        state.withLock { ($0.longest, $0.told) }
    }
}

extension Register.Action {
    fileprivate var name: String {
        switch self {
        case .put(_, .none): "put"
        case .put(_, .ifAbsent): "put if absent"
        case .put(_, .ifValue): "put if match"
        case .get: "get"
        case .delete(.none): "delete"
        case .delete: "delete if match"
        }
    }
}

extension Register.Answer {
    fileprivate var name: String {
        switch self {
        case .done: "done"
        case .value(let value): value == nil ? "absent" : "found"
        case .deleted(let existed): existed ? "done" : "absent"
        case .preconditionFailed: "precondition failed"
        case .noSuchKey: "no such key"
        }
    }
}
