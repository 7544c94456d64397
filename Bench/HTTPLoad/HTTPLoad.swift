import Glibc
import Synchronization

/// The load generator of `make bench`: N clients on blocking sockets, one thread each, carry out
/// the requests of a plan as fast as they are answered. One JSON object is printed at the end.
///
/// It knows nothing of S3: requests arrive with their signatures made. Its own CPU is nobody's
/// figure, but it shares the machine with what is measured, so it does little.
@main
struct HTTPLoad {
    static let usage = """
        usage: http-load --port PORT [--host 127.0.0.1] [--clients 8] [--verify] [--mark BYTES]
                         [--stop-after BYTES] [--pause MILLISECONDS] < PLAN
        PLAN has a request a line: METHOD, TARGET, SEED, OFFSET, BYTES, headers, divided by tabs.
        """

    static func main() {
        do {
            let options = try Options(Array(CommandLine.arguments.dropFirst()))
            let plan = try Plan(standardInputFor: options.host, port: options.port)
            let run = LoadRun(plan: plan, options: options)
            run.carryOut()
            print(run.summary)
            exit(run.hasErrors ? 1 : 0)
        } catch {
            let text = Array("http-load: \(error.message)\n\(usage)\n".utf8)
            write(STDERR_FILENO, text, text.count)
            exit(2)
        }
    }
}

/// The arguments.
struct Options: Sendable {
    var host = "127.0.0.1"
    var port = 0
    var clients = 8
    var verifies = false
    /// The summary tells when so many bytes of each body had come.
    var mark = Int.max
    /// Connections are given up after so many bytes of a body; 0: never.
    var stopAfter = 0
    /// How long each client rests before a request.
    var pauseMilliseconds = 0

    /// The most clients at a time.
    static let maximumClients = 1024

    init(_ arguments: [String]) throws(UsageError) {
        var rest = arguments[...]
        while let name = rest.popFirst() {
            if name == "--verify" {
                verifies = true
                continue
            }
            guard let value = rest.popFirst() else {
                throw UsageError(message: "\(name) needs a value")
            }
            if name == "--host" {
                host = value
                continue
            }
            guard let number = Int(value), number >= 0 else {
                throw UsageError(message: "\(name) takes a number, not \(value)")
            }
            switch name {
            case "--port": port = number
            case "--clients": clients = number
            case "--mark": mark = number
            case "--stop-after": stopAfter = number
            case "--pause": pauseMilliseconds = number
            default: throw UsageError(message: "there is no option \(name)")
            }
        }
        guard (1...65535).contains(port) else { throw UsageError(message: "--port is missing") }
        guard (1...Options.maximumClients).contains(clients) else {
            throw UsageError(message: "--clients takes 1 to \(Options.maximumClients)")
        }
    }
}
