import Foundation

/// A transcript: commands behind `>`, and below each what it answered. Lines that begin with `#`
/// and blank lines are the writer's.
struct Transcript {
    enum Line {
        case text(String)
        case step(command: String, line: Int, expected: [String])
    }

    let url: URL
    private(set) var lines: [Line] = []

    init(contentsOf url: URL) throws {
        self.url = url
        let text = try String(contentsOf: url, encoding: .utf8)
        var rest = text.split(separator: "\n", omittingEmptySubsequences: false)[...]
        if rest.last == "" { rest.removeLast() }
        while let line = rest.first {
            let number = rest.startIndex + 1
            rest.removeFirst()
            guard line.hasPrefix("> ") else {
                lines.append(.text(String(line)))
                continue
            }
            let answer = rest.prefix { !$0.isEmpty && !$0.hasPrefix("> ") && !$0.hasPrefix("#") }
            rest = rest.dropFirst(answer.count)
            lines.append(
                .step(
                    command: String(line.dropFirst(2)), line: number,
                    expected: answer.map(String.init)))
        }
    }

    /// Runs every command.
    ///
    /// - Returns: the steps whose answer is another than expected, and the whole text as it
    ///   would be with the answers given.
    func run(
        _ answer: (String) -> [String]
    ) -> (differences: [(line: Int, expected: [String], answer: [String])], text: String) {
        var differences: [(line: Int, expected: [String], answer: [String])] = []
        var text = ""
        for line in lines {
            switch line {
            case .text(let own): text += own + "\n"
            case .step(let command, let number, let expected):
                let given = answer(command)
                if given != expected { differences.append((number, expected, given)) }
                text += "> " + command + "\n" + given.map { $0 + "\n" }.joined()
            }
        }
        return (differences, text)
    }
}
