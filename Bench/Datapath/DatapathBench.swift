import Glibc

/// Rows 6 to 8 of `make bench`: the product's side of them. Each command does one measurement and
/// prints one JSON object; `Bench/datapath.py` runs the yardstick beside it.
@main
struct DatapathBench {
    static let usage = """
        usage: datapath-bench append --dir DIR [--mib 1024] [--depth 16]
               datapath-bench prepare --dir DIR [--mib 1024]
               datapath-bench read --dir DIR --size BYTES --depth N [--seconds 3]
               datapath-bench serve                 (prints its port; ends with standard input)
               datapath-bench send --port PORT [--connections 2] [--mib 4096] [--depth 2] [--shared 1]
               datapath-bench call --port PORT [--count 300000] [--depth 64] [--shared 1]
        """

    static func main() async {
        var arguments = Array(CommandLine.arguments.dropFirst())
        let command = arguments.isEmpty ? "" : arguments.removeFirst()
        do {
            let options = try Options(arguments)
            switch command {
            case "append": try await StoreRun(options).append()
            case "prepare": try await StoreRun(options).prepare()
            case "read": try await StoreRun(options).read()
            case "serve": try await RPCRun.serve()
            case "send": try await RPCRun(options).send()
            case "call": try await RPCRun(options).call()
            default: throw UsageError(message: "there is no command '\(command)'")
            }
        } catch let error as UsageError {
            complain("\(error.message)\n\(usage)")
            exit(2)
        } catch {
            complain("\(error)")
            exit(1)
        }
    }

    private static func complain(_ text: String) {
        let bytes = Array("datapath-bench: \(text)\n".utf8)
        write(STDERR_FILENO, bytes, bytes.count)
    }
}

/// What is wrong with the arguments. The text names what would be right.
struct UsageError: Error {
    var message: String
}

/// Options of all commands: `--name value`.
struct Options: Sendable {
    var directory = ""
    private var numbers: [String: Int] = [:]
    private static let names: Set<String> = [
        "mib", "depth", "size", "seconds", "port", "connections", "count", "shared",
    ]

    init(_ arguments: [String]) throws(UsageError) {
        var rest = arguments[...]
        while let name = rest.popFirst() {
            guard let value = rest.popFirst() else {
                throw UsageError(message: "\(name) needs a value")
            }
            if name == "--dir" {
                directory = value
                continue
            }
            let bare = String(name.drop { $0 == "-" })
            guard Options.names.contains(bare), let number = Int(value), number > 0 else {
                throw UsageError(message: "\(name) \(value): no such option, or not a number")
            }
            numbers[bare] = number
        }
    }

    /// The number given as `--name`, or `fallback`.
    func number(_ name: String, _ fallback: Int) -> Int {
        precondition(Options.names.contains(name), "options have known names")
        return numbers[name] ?? fallback
    }
}

/// Elapsed and CPU time of this process since it was made: user, system, and the workers that the
/// kernel keeps for its rings.
struct Stopwatch {
    private let start = Stopwatch.time(CLOCK_MONOTONIC)
    private let startCPU = Stopwatch.time(CLOCK_PROCESS_CPUTIME_ID)

    var seconds: Double { Stopwatch.time(CLOCK_MONOTONIC) - start }
    var cpuSeconds: Double { Stopwatch.time(CLOCK_PROCESS_CPUTIME_ID) - startCPU }

    private static func time(_ clock: clockid_t) -> Double {
        var time = timespec()
        clock_gettime(clock, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}

/// Prints `fields` as one JSON object.
func printResult(_ fields: [(String, Double)]) {
    print("{" + fields.map { "\"\($0.0)\": \($0.1)" }.joined(separator: ", ") + "}")
}
