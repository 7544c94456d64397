import Foundation

/// Prints an encodable value as JSON with sorted keys.
func printJSON(_ value: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    print(String(decoding: try encoder.encode(value), as: UTF8.self))
}

/// Prints rows in columns, as wide as their widest entry.
func printTable(_ header: [String], _ rows: [[String]]) {
    var widths = header.map(\.count)
    for row in rows {
        for (column, text) in row.enumerated() { widths[column] = max(widths[column], text.count) }
    }
    for row in [header.map { $0.uppercased() }] + rows {
        let line = row.enumerated().map { column, text in
            column == row.count - 1
                ? text : text + String(repeating: " ", count: widths[column] - text.count + 2)
        }
        print(line.joined())
    }
}

/// Bytes for people: 1.5 GiB.
func formatBytes(_ count: Int) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    var value = Double(count)
    var unit = 0
    while value >= 1024, unit < units.count - 1 {
        value /= 1024
        unit += 1
    }
    return unit == 0 ? "\(count) B" : String(format: "%.1f %@", value, units[unit])
}

/// Shows on a terminal how far long work has come; silent when standard error is none.
struct Progress {
    private let label: String
    private let total: Int
    private let isShown: Bool
    private let start = ContinuousClock.now
    private var shownAt = ContinuousClock.now
    private(set) var done = 0

    init(_ label: String, total: Int) {
        self.label = label
        self.total = total
        isShown = isatty(STDERR_FILENO) == 1 && total > 8 << 20
    }

    mutating func advance(_ count: Int) {
        done += count
        guard isShown, done == total || shownAt.duration(to: .now) > .milliseconds(200) else {
            return
        }
        shownAt = .now
        let seconds = Double(start.duration(to: .now).components.seconds) + 0.001
        let rate = formatBytes(Int(Double(done) / max(seconds, 0.2)))
        let percent = total == 0 ? 100 : done * 100 / total
        let end = done == total ? "\n" : ""
        let line = "\r\u{1B}[K\(label) \(percent) % of \(formatBytes(total)), \(rate)/s\(end)"
        FileHandle.standardError.write(Data(line.utf8))
    }
}
