import Foundation
import Model

/// Questions at a terminal, each with an answer that Return takes.
struct ClusterQuestions {
    /// The next line that was typed; nil at the end of input.
    var read: () -> String? = { Swift.readLine() }
    var write: (String) -> Void = { text in
        FileHandle.standardError.write(Data(text.utf8))
    }

    /// Asks until the answer pleases `check`.
    /// - Parameter usual: what an empty answer means; nil: there must be one.
    /// - Throws: `cancelled` at the end of input.
    func ask<T>(
        _ question: String, usual: String?, _ check: (String) throws(StoreError) -> T
    ) throws(StoreError) -> T {
        while true {
            write(question + (usual.map { " [\($0)]" } ?? "") + ": ")
            guard let line = read() else {
                throw StoreError(.cancelled, "no answer: nothing was written")
            }
            let typed = line.trimmingCharacters(in: .whitespaces)
            let answer = typed.isEmpty ? usual ?? "" : typed
            do throws(StoreError) {
                if answer.isEmpty { throw StoreError(.invalidArgument, "there must be an answer") }
                return try check(answer)
            } catch {
                write("  \(error.message)\n")
            }
        }
    }

    /// Asks for hosts, `NAME=ADDRESS` each, until an empty line.
    func hosts() throws(StoreError) -> [(name: String, address: String)] {
        var hosts: [(name: String, address: String)] = []
        write(
            "The hosts, NAME=ADDRESS each, NAME as `hostname` prints it; an empty line ends them.\n"
        )
        while true {
            write("  host \(hosts.count + 1): ")
            guard let line = read() else {
                throw StoreError(.cancelled, "no answer: nothing was written")
            }
            let typed = line.trimmingCharacters(in: .whitespaces)
            if typed.isEmpty {
                if !hosts.isEmpty { return hosts }
                write("  there is one at least\n")
                continue
            }
            do throws(StoreError) { hosts.append(try Self.pair(typed, "--host")) } catch {
                write("  \(error.message)\n")
            }
        }
    }

    /// The two sides of `NAME=VALUE`.
    static func pair(
        _ text: String, _ option: String
    ) throws(StoreError) -> (name: String, address: String) {
        guard let equals = text.firstIndex(of: "="), equals > text.startIndex,
            text.index(after: equals) < text.endIndex
        else {
            throw StoreError(
                .invalidArgument, "\(option) takes NAME=VALUE, as host1=…, not '\(text)'")
        }
        return (String(text[..<equals]), String(text[text.index(after: equals)...]))
    }
}
