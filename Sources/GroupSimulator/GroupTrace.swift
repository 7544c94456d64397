import Raft
import Simulator

/// Something that happened in a simulated group, as it is kept for a failure.
enum GroupEvent {
    case message(Message, lost: String?)
    case operation(place: Int, OperationNote, result: Int32)
    case machine(Int, String)
    case client(Int, String)
    case fault(String)
}

/// An operation on files without its memory.
struct OperationNote {
    var name: StaticString
    var path = ""
    var descriptor: Int32 = 0
    var offset = 0
    var length = 0
}

/// The events of a run: a digest of all, and the last of them as text.
struct GroupTrace {
    private var ring: [(step: Int, time: Microseconds, event: GroupEvent)] = []
    private var next = 0
    private let limit: Int
    private(set) var digest = Digest()
    var printer: ((String) -> Void)?

    init(keeping limit: Int) { self.limit = limit }

    mutating func add(_ event: GroupEvent, step: Int, time: Microseconds) {
        digest.add(UInt64(time))
        mix(event)
        if let printer { printer(Self.text(step, time, event)) }
        if ring.count < limit {
            ring.append((step, time, event))
        } else {
            ring[next] = (step, time, event)
            next = (next + 1) % limit
        }
    }

    /// The last events, oldest first.
    var tail: [String] {
        (ring[next...] + ring[..<next]).map { Self.text($0.step, $0.time, $0.event) }
    }

    private mutating func mix(_ event: GroupEvent) {
        switch event {
        case .message(let message, let lost):
            digest.add(
                UInt64(message.kind.rawValue) << 56 ^ message.from.rawValue << 40
                    ^ message.to.rawValue << 20 ^ message.term)
            digest.add(message.index << 32 ^ message.commit ^ (lost == nil ? 0 : 1 << 63))
            digest.add(UInt64(message.entries.count))
        case .operation(let place, let note, let result):
            digest.add(UInt64(place) << 32 ^ UInt64(bitPattern: Int64(result)))
            digest.add(UInt64(note.offset) << 20 ^ UInt64(note.length))
        case .machine(let place, let text):
            digest.add(UInt64(place))
            digest.add(Array(text.utf8))
        case .client(let place, let text):
            digest.add(UInt64(place) << 8)
            digest.add(Array(text.utf8))
        case .fault(let text): digest.add(Array(text.utf8))
        }
    }

    private static func text(_ step: Int, _ time: Microseconds, _ event: GroupEvent) -> String {
        TraceText.line(step, time, text(event))
    }

    private static func text(_ event: GroupEvent) -> String {
        switch event {
        case .message(let message, let lost):
            return TraceText.message(message) + (lost.map { " LOST \($0)" } ?? "")
        case .operation(let place, let note, let result):
            return "machine \(place + 1) \(note.name) "
                + (note.path.isEmpty ? "#\(note.descriptor)" : note.path)
                + (note.length > 0 ? " \(note.offset)+\(note.length)" : "")
                + (result < 0 ? " FAILED \(-result)" : "")
        case .machine(let place, let text): return "machine \(place + 1) \(text)"
        case .client(let client, let text): return "client \(client) \(text)"
        case .fault(let text): return "-- \(text)"
        }
    }
}
