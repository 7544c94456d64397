import Foundation

/// One check of a data-driven file: a command, its arguments and input, and what it answers.
struct DataDrivenCase: Sendable {
    /// An argument: `key`, `key=value` or `key=(value,value)`.
    struct Argument: Sendable, Equatable {
        var key: String
        var values: [String]
    }

    var line: Int
    var command: String
    var arguments: [Argument]
    var input: String
    var expected: String
    /// The lines before `----`, as they stand in the file, comments in between left out.
    var commandText: String

    /// The first value of a `key=value`.
    func value(_ key: String) -> String? {
        arguments.first { $0.key == key && !$0.values.isEmpty }?.values.first
    }

    /// All values of a key.
    func values(_ key: String) -> [String]? { arguments.first { $0.key == key }?.values }

    /// Arguments without a value.
    var bare: [String] { arguments.filter(\.values.isEmpty).map(\.key) }
}

/// A file in the format of cockroachdb/datadriven (see the README of the reference data).
struct DataDrivenFile: Sendable {
    var name: String
    /// The file's parts in order: text to keep as it is, and checks.
    enum Part: Sendable {
        case text(String)
        case check(DataDrivenCase)
    }
    var parts: [Part] = []

    var cases: [DataDrivenCase] {
        parts.compactMap { if case .check(let check) = $0 { check } else { nil } }
    }

    init(contentsOf url: URL) throws {
        name = url.lastPathComponent
        let text = try String(contentsOf: url, encoding: .utf8)
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false)[...]
        if lines.last == "" { lines.removeLast() }
        while let line = lines.first {
            if line.isEmpty || line.hasPrefix("#") {
                parts.append(.text(String(lines.removeFirst())))
            } else {
                parts.append(.check(Self.takeCase(&lines)))
            }
        }
    }

    private static func takeCase(_ lines: inout ArraySlice<Substring>) -> DataDrivenCase {
        let number = lines.startIndex + 1
        let first = String(lines.removeFirst())
        var input: [Substring] = []
        while let line = lines.first, line != "----" { input.append(lines.removeFirst()); _ = line }
        if !lines.isEmpty { lines.removeFirst() }
        var output: [Substring] = []
        if lines.first == "----" {
            lines.removeFirst()
            while !lines.isEmpty, !(lines.first == "----" && lines.dropFirst().first == "----") {
                output.append(lines.removeFirst())
            }
            lines = lines.dropFirst(2)
        } else {
            while let line = lines.first, !line.isEmpty { output.append(lines.removeFirst()) }
        }
        var words = split(first)[...]
        let command = words.popFirst() ?? ""
        return DataDrivenCase(
            line: number, command: command, arguments: words.map(argument),
            input: input.joined(separator: "\n"), expected: output.joined(separator: "\n"),
            commandText: ([first[...]] + input).joined(separator: "\n"))
    }

    /// Words between blanks; parentheses hold blanks.
    private static func split(_ line: String) -> [String] {
        var words: [String] = []
        var word = ""
        var depth = 0
        for character in line {
            if character == "(" { depth += 1 }
            if character == ")" { depth -= 1 }
            if character == " ", depth == 0 {
                if !word.isEmpty { words.append(word) }
                word = ""
            } else {
                word.append(character)
            }
        }
        if !word.isEmpty { words.append(word) }
        return words
    }

    private static func argument(_ word: String) -> DataDrivenCase.Argument {
        guard let equals = word.firstIndex(of: "=") else { return .init(key: word, values: []) }
        let key = String(word[..<equals])
        var rest = word[word.index(after: equals)...]
        guard rest.hasPrefix("("), rest.hasSuffix(")") else {
            return .init(key: key, values: [String(rest)])
        }
        rest = rest.dropFirst().dropLast()
        let values = rest.split(separator: ",", omittingEmptySubsequences: true)
        return .init(key: key, values: values.map { $0.trimmingCharacters(in: .whitespaces) })
    }
}
