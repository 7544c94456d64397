/// A key of an object store, as those see it who write it whole: a register that may be empty, with
/// conditional writes.
///
/// Values are numbers of which each is written once at most, so that a value says which write it
/// comes from.
public enum Register {
    /// nil: there is no key.
    public typealias State = UInt64?

    public enum Condition: Hashable, Sendable {
        case none
        /// There is no key: `If-None-Match: *`.
        case ifAbsent
        /// The key has this value: `If-Match` with its ETag.
        case ifValue(UInt64)
    }

    public enum Action: Hashable, Sendable {
        case put(UInt64, Condition)
        case get
        case delete(Condition)
    }

    public enum Answer: Hashable, Sendable {
        /// It was put.
        case done
        /// What was got; nil: there is no key.
        case value(UInt64?)
        case deleted(existed: Bool)
        case preconditionFailed
        /// There is no key for a condition to hold of.
        case noSuchKey
    }

    /// What `action` does to a key in `state`, and what it is answered.
    public static func apply(_ action: Action, to state: State) -> (State, Answer) {
        switch action {
        case .get: return (state, .value(state))
        case .put(let value, let condition):
            if let refusal = refusal(condition, state) { return (state, refusal) }
            return (value, .done)
        case .delete(let condition):
            if let refusal = refusal(condition, state) { return (state, refusal) }
            return (nil, .deleted(existed: state != nil))
        }
    }

    private static func refusal(_ condition: Condition, _ state: State) -> Answer? {
        switch condition {
        case .none: nil
        case .ifAbsent: state == nil ? nil : .preconditionFailed
        case .ifValue(let value):
            state == nil ? .noSuchKey : state == value ? nil : .preconditionFailed
        }
    }
}

/// What one client asked for, and what it was told.
public struct KeyOperation: Hashable, Sendable {
    /// When it was asked for, by a clock that all clients share.
    public var began: UInt64
    /// When the answer came, and which. nil: none came. It may have been carried out, may yet be at
    /// any later time, or may never be.
    public var ended: UInt64?
    public var answer: Register.Answer?
    public var action: Register.Action
    /// Who asked; for people alone.
    public var client: Int

    /// One that was answered.
    public init(
        _ action: Register.Action, _ answer: Register.Answer, from began: UInt64, to ended: UInt64,
        client: Int = 0
    ) {
        precondition(began <= ended, "an operation ends after it began")
        self.action = action
        self.answer = answer
        self.began = began
        self.ended = ended
        self.client = client
    }

    /// One that nobody answered.
    public init(unanswered action: Register.Action, from began: UInt64, client: Int = 0) {
        self.action = action
        self.began = began
        self.client = client
    }
}

extension KeyOperation: CustomStringConvertible {
    public var description: String {
        let end = ended.map { "\($0)" } ?? "open"
        return "\(began)..\(end) client \(client): \(action.text)"
            + (answer.map { " -> \($0.text)" } ?? "")
    }
}

extension Register.Condition {
    fileprivate var text: String {
        switch self {
        case .none: ""
        case .ifAbsent: " if absent"
        case .ifValue(let value): " if \(value)"
        }
    }
}

extension Register.Action {
    fileprivate var text: String {
        switch self {
        case .put(let value, let condition): "put \(value)\(condition.text)"
        case .get: "get"
        case .delete(let condition): "delete\(condition.text)"
        }
    }
}

extension Register.Answer {
    fileprivate var text: String {
        switch self {
        case .done: "done"
        case .value(let value): value.map { "\($0)" } ?? "absent"
        case .deleted(let existed): existed ? "deleted" : "was absent"
        case .preconditionFailed: "precondition failed"
        case .noSuchKey: "no such key"
        }
    }
}
