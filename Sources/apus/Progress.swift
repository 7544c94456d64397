import Foundation

/// Shows on a terminal how far long work has come: one line of standard error, written over. Silent
/// where standard error is no terminal, and with `--json`.
final class StatusLine {
    private let isShown: Bool
    private var isOpen = false

    init(isQuiet: Bool) { isShown = Escaping.errorIsTerminal && !isQuiet }

    /// Shows `text`, which may hold names, in place of the last one.
    func show(_ text: String) {
        guard isShown else { return }
        isOpen = true
        write("\r\u{1B}[K" + Escaping.escaped(text))
    }

    /// Leaves `text`, or nothing, in place of what was shown.
    func end(_ text: String? = nil) {
        guard isShown, isOpen || text != nil else { return }
        isOpen = false
        write("\r\u{1B}[K" + (text.map { Escaping.escaped($0) + "\n" } ?? ""))
    }

    private func write(_ text: String) {
        FileHandle.standardError.write(Data(text.utf8))
    }

    // Whatever follows, an error also, begins on a line of its own.
    deinit { end() }
}

/// How far the bytes of a key have come.
///
/// Nothing is shown of what is done in a moment.
struct ByteProgress: ~Copyable {
    private enum Limits {
        static let silence = Duration.milliseconds(500)
        static let step = Duration.milliseconds(200)
    }

    private let label: String
    private let total: Int?
    private let line: StatusLine
    private let start = ContinuousClock.now
    private var shownAt = ContinuousClock.now
    private(set) var done = 0

    /// - Parameter total: nil if it is not known.
    init(_ label: String, total: Int?, isQuiet: Bool) {
        self.label = label
        self.total = total
        line = StatusLine(isQuiet: isQuiet)
    }

    mutating func advance(_ count: Int) {
        done += count
        let now = ContinuousClock.now
        guard start.duration(to: now) > Limits.silence,
            shownAt.duration(to: now) > Limits.step
        else { return }
        shownAt = now
        line.show(Self.text(label, done: done, total: total, start.duration(to: now)))
    }

    /// `put a/b 40 % of 1.0 GiB, 512.0 MiB/s, 2 s left`
    static func text(
        _ label: String, done: Int, total: Int?, _ elapsed: Duration
    ) -> String {
        let seconds = max(
            0.001,
            Double(elapsed.components.seconds)
                + Double(elapsed.components.attoseconds) / 1e18)
        let rate = Double(done) / seconds
        let speed = "\(formatBytes(Int(rate)))/s"
        guard let total, total > 0 else { return "\(label) \(formatBytes(done)), \(speed)" }
        let left = rate > 0 ? ", \(Int(Double(max(0, total - done)) / rate)) s left" : ""
        return "\(label) \(done * 100 / total) % of \(formatBytes(total)), \(speed)\(left)"
    }
}
