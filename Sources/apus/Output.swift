import Foundation

/// JSON as every command prints it, with sorted keys; on one line unless `isPretty`.
func json(_ value: some Encodable, isPretty: Bool = true) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    if isPretty { encoder.outputFormatting.insert(.prettyPrinted) }
    return Escaping.escapedJSON(String(decoding: try encoder.encode(value), as: UTF8.self))
}

/// Prints an encodable value as JSON with sorted keys.
func printJSON(_ value: some Encodable) throws { print(try json(value)) }

/// Prints rows in columns, as wide as their widest entry; on a terminal entries are escaped.
func printTable(_ header: [String], _ rows: [[String]]) {
    for line in Table.lines(header, rows.map { $0.map(shown) }) { print(line) }
}

/// Text in columns.
enum Table {
    /// The lines of a table: the header in capitals, then the rows.
    static func lines(_ header: [String], _ rows: [[String]]) -> [String] {
        var widths = header.map(\.count)
        for row in rows {
            for (column, text) in row.enumerated() {
                widths[column] = max(widths[column], text.count)
            }
        }
        return ([header.map { $0.uppercased() }] + rows).map { row in
            row.enumerated().map { column, text in
                column == row.count - 1
                    ? text : text + String(repeating: " ", count: widths[column] - text.count + 2)
            }.joined()
        }
    }
}

/// Prints names and values of one thing below each other; those without a value are left out.
func printFields(_ fields: [(name: String, value: String?)]) {
    let given = fields.filter { $0.value?.isEmpty == false }
    let width = given.map(\.name.count).max() ?? 0
    for (name, value) in given {
        let space = String(repeating: " ", count: width - name.count + 2)
        print(name + space + shown(value ?? ""))
    }
}

/// What a command that changes something has done.
struct Done: Encodable {
    /// `created`, `deleted`, `closing`…
    var done: String
    /// `volume`, `bucket`, `key`, `user`, `container`…
    var kind: String
    var name: String
    var replication: String?

    /// Prints it, for people or for programs.
    func print(json isJSON: Bool) throws {
        if isJSON { return try printJSON(self) }
        let how = replication.map { ", \($0)" } ?? ""
        Swift.print("\(done) \(kind) \(shown(name))\(how)")
    }
}

/// A value that JSON has as null where there is none, instead of leaving its name out.
struct OrNull<Value: Encodable>: Encodable {
    var value: Value?

    init(_ value: Value?) { self.value = value }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        if let value { try container.encode(value) } else { try container.encodeNil() }
    }
}

/// Prints a JSON array element by element, each on a line of its own, so that its length takes no
/// memory. One that ends early is no JSON: a program notices.
struct JSONArrayPrinter {
    private var isFirst = true

    mutating func append(_ value: some Encodable) throws {
        print(isFirst ? "[\n" : ",\n", terminator: "")
        print(try json(value, isPretty: false), terminator: "")
        isFirst = false
    }

    func end() { print(isFirst ? "[]" : "\n]") }
}

/// Standard output as a file that may be full, or a pipe whose reader may be gone.
enum StandardOutput {
    /// Writes out what was printed. Throws if it cannot be written; quietly if nobody reads it.
    static func flush() throws {
        guard fflush(nil) == 0 else {
            // Nobody who could be told waits for the rest.
            if errno == EPIPE { throw QuietFailure() }
            throw OutputFailure(code: errno)
        }
    }
}

/// A failure of which nothing is said: exit code 1.
struct QuietFailure: Error {}

/// Standard output could not be written.
struct OutputFailure: Error, CustomStringConvertible {
    var code: Int32
    var description: String {
        "standard output cannot be written: \(String(cString: strerror(code)))"
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

/// A number with its thing: 1 key, 2 keys.
func counted(_ count: Int, _ noun: String) -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }
