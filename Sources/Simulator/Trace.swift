import Raft

/// What happened, as far as it is worth a line.
enum TraceItem {
    case delivered(Message)
    case lost(Message, String)
    case node(PeerID, NodeEvent)
    case client(Int, ClientEvent)
    case fault(String)
}

/// What a node did.
enum NodeEvent {
    case ready(HardState, Role, entries: Int, committed: Int, messages: Int)
    case synced(LogIndex)
    case applied(LogIndex)
    case checkpoint(LogIndex)
    case restored(LogIndex)
    case crashed(String)
    case started(HardState, last: LogIndex, applied: LogIndex)
    case told(String)
}

/// What a client did.
enum ClientEvent {
    case asked(Command, PeerID, attempt: Int)
    case answered(Command, RegisterOperation.Answer)
    case refused(Command)
    case gaveUp(Command)
}

/// The events of a run: the last ones for the report of a failure, and a digest of all.
struct Trace {
    private struct Line {
        var step: Int
        var time: Microseconds
        var item: TraceItem
    }

    private var lines: [Line?]
    private var count = 0
    /// Called with each line as it happens, if set.
    var printer: (@Sendable (String) -> Void)?
    /// Equal for equal runs, in any process.
    private(set) var digest = Digest()

    init(keeping lineCount: Int) { lines = [Line?](repeating: nil, count: lineCount) }

    mutating func add(_ item: TraceItem, step: Int, time: Microseconds) {
        let line = Line(step: step, time: time, item: item)
        digest.add(UInt64(step))
        digest.add(UInt64(time))
        Self.mix(item, into: &digest)
        lines[count % lines.count] = line
        count += 1
        if let printer { printer(Self.text(line)) }
    }

    /// Adds the state of a node after a step to the digest.
    mutating func mix(_ state: HardState, _ role: Role) {
        digest.add(state.term ^ state.commit << 20 ^ state.vote.rawValue << 50)
        digest.add(UInt64(role.rawValue))
    }

    /// The last events, oldest first.
    var tail: [String] {
        let first = max(0, count - lines.count)
        return (first..<count).compactMap { lines[$0 % lines.count].map(Self.text) }
    }

    private static func mix(_ item: TraceItem, into digest: inout Digest) {
        switch item {
        case .delivered(let message), .lost(let message, _):
            digest.add(UInt64(message.kind.rawValue))
            digest.add(message.from.rawValue << 32 | message.to.rawValue)
            digest.add(message.term)
            digest.add(message.index)
            digest.add(message.logTerm ^ message.commit << 32)
            digest.add(UInt64(message.entries.count) << 1 | (message.reject ? 1 : 0))
        case .node(let id, let event):
            digest.add(id.rawValue)
            mix(event, into: &digest)
        case .client(let client, let event):
            digest.add(UInt64(client))
            mix(event, into: &digest)
        case .fault(let text): digest.add(Array(text.utf8))
        }
    }

    private static func mix(_ event: NodeEvent, into digest: inout Digest) {
        switch event {
        case .ready(let state, let role, let entries, let committed, let messages):
            digest.add(state.term ^ state.commit << 20 ^ state.vote.rawValue << 50)
            digest.add(UInt64(role.rawValue) << 48 ^ UInt64(entries) << 32)
            digest.add(UInt64(committed) << 32 ^ UInt64(messages))
        case .synced(let index), .applied(let index), .checkpoint(let index), .restored(let index):
            digest.add(index)
        case .started(let state, let last, let applied):
            digest.add(state.term ^ state.commit << 20 ^ state.vote.rawValue << 50)
            digest.add(last << 32 ^ applied)
        case .crashed(let text), .told(let text): digest.add(Array(text.utf8))
        }
    }

    private static func mix(_ event: ClientEvent, into digest: inout Digest) {
        switch event {
        case .asked(let command, let node, let attempt):
            digest.add(UInt64(command.sequence) << 32 ^ node.rawValue << 16 ^ UInt64(attempt))
            digest.add(UInt64(command.register))
        case .answered(let command, let answer):
            digest.add(UInt64(command.sequence))
            switch answer {
            case .value(let value), .observed(let value): digest.add(UInt64(value))
            case .written: break
            }
        case .refused(let command), .gaveUp(let command): digest.add(UInt64(command.sequence))
        }
    }

    // MARK: Text

    private static func text(_ line: Line) -> String {
        TraceText.line(line.step, line.time, text(line.item))
    }

    private static func text(_ item: TraceItem) -> String {
        switch item {
        case .delivered(let message): TraceText.message(message)
        case .lost(let message, let why): "\(TraceText.message(message)) LOST \(why)"
        case .node(let id, let event): "node \(id) \(text(event))"
        case .client(let client, let event): "client \(client) \(text(event))"
        case .fault(let text): "-- \(text)"
        }
    }

    private static func text(_ event: NodeEvent) -> String {
        switch event {
        case .ready(let state, let role, let entries, let committed, let messages):
            "ready: \(role) term \(state.term) vote \(state.vote) commit \(state.commit), "
                + "\(entries) to write, \(committed) to apply, \(messages) to send"
        case .synced(let last): "synced its log up to \(last)"
        case .applied(let index): "applied up to \(index)"
        case .checkpoint(let index): "made its checkpoint at \(index) durable"
        case .restored(let index): "restored a snapshot at \(index)"
        case .crashed(let why): "CRASHED \(why)"
        case .started(let state, let last, let applied):
            "STARTED with term \(state.term) vote \(state.vote) commit \(state.commit), last entry "
                + "\(last), applied \(applied)"
        case .told(let what): what
        }
    }

    private static func text(_ event: ClientEvent) -> String {
        switch event {
        case .asked(let command, let node, let attempt):
            "asks node \(node) for \(text(command)), attempt \(attempt)"
        case .answered(let command, let answer): "\(text(command)) gave \(answer)"
        case .refused(let command): "\(text(command)) was refused"
        case .gaveUp(let command): "\(text(command)) is given up"
        }
    }

    private static func text(_ command: Command) -> String {
        "#\(command.sequence) r\(command.register) \(command.request)"
    }
}
