import Raft

/// Lines of a trace, as people read them.
public enum TraceText {
    /// An event with its step and its time.
    public static func line(_ step: Int, _ time: Microseconds, _ text: String) -> String {
        "\(padded(step, 6)) \(seconds(time)) \(text)"
    }

    private static func padded(_ number: Int, _ width: Int) -> String {
        let digits = String(number)
        return String(repeating: " ", count: max(0, width - digits.count)) + digits
    }

    /// Seconds with six decimals.
    public static func seconds(_ time: Microseconds) -> String {
        let fraction = String(time % 1_000_000)
        return "\(padded(Int(time / 1_000_000), 4))."
            + String(repeating: "0", count: 6 - fraction.count) + fraction
    }

    /// What a message says, without its entries' data.
    public static func message(_ message: Message) -> String {
        var text = "\(message.from)→\(message.to) \(message.kind) term \(message.term)"
        if message.kind == .append || message.kind == .appendResponse || message.index > 0 {
            text += " index \(message.index) logTerm \(message.logTerm)"
        }
        if let first = message.entries.first, let last = message.entries.last {
            text += " entries \(first.index)...\(last.index)"
        }
        if message.commit > 0 { text += " commit \(message.commit)" }
        if let snapshot = message.snapshot {
            text += " snapshot \(snapshot.metadata.index)/\(snapshot.metadata.term)"
        }
        if message.reject { text += " REJECT hint \(message.rejectHint)" }
        return text
    }
}
