import Foundation
import Glibc
import Model
import Synchronization

/// The role processes of `apus up --separate`. A role that dies is neither restarted nor does it
/// stop the others.
final class Children: Sendable {
    private let layout: ClusterLayout
    private let overrides: [String]
    private let processes = Mutex<[(name: String, process: SendableProcess)]>([])

    init(layout: ClusterLayout, overrides: [String]) {
        self.layout = layout
        self.overrides = overrides
    }

    /// Starts `apus ROLE` with the settings of `name`; its output goes to its log.
    func start(_ name: String, _ role: String) throws {
        FileManager.default.createFile(atPath: layout.log(name), contents: nil)
        guard let log = FileHandle(forWritingAtPath: layout.log(name)) else {
            throw StoreError(.io, "cannot write \(layout.log(name))")
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments =
            [role, "--config", layout.file(name)] + overrides.flatMap { ["--set", $0] }
        process.environment = ProcessInfo.processInfo.environment.merging(["APUS_PARENT": "1"]) {
            $1
        }
        process.standardOutput = log
        process.standardError = log
        // Held open and never written to: a role ends when this process does.
        process.standardInput = Pipe()
        try process.run()
        try Data("\(process.processIdentifier)\n".utf8).write(
            to: URL(fileURLWithPath: layout.pid(name)), options: .atomic)
        processes.withLock { $0.append((name, SendableProcess(process))) }
    }

    /// A role that has ended, if any.
    func firstDead() -> String? {
        processes.withLock { $0.first { !$0.process.isRunning }?.name }
    }

    /// The port that a role announced, once it has.
    func port(of name: String, label: String) async throws -> Int {
        let prefix = "ready \(label) port="
        for _ in 0..<600 {
            let text = FileManager.default.contents(atPath: layout.log(name)) ?? Data()
            let line = String(decoding: text, as: UTF8.self).split(separator: "\n")
                .first { $0.hasPrefix(prefix) }
            if let line, let port = Int(line.dropFirst(prefix.count).prefix(while: \.isNumber)) {
                return port
            }
            if firstDead() == name { break }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw StoreError(.notReady, "\(name) did not come up; its log is \(layout.log(name))")
    }

    /// Ends the roles, those that depend on others first.
    func stop() async {
        for (name, process) in processes.withLock({ $0.reversed() }) {
            process.terminate()
            for _ in 0..<300 where process.isRunning {
                try? await Task.sleep(for: .milliseconds(50))
            }
            if process.isRunning { process.kill() }
            unlink(layout.pid(name))
        }
    }
}

/// A process seen through its id alone, which may be used from any thread.
struct SendableProcess: Sendable {
    private let id: Int32

    init(_ process: Process) { id = process.processIdentifier }

    var isRunning: Bool {
        // Foundation reaps its children; one that is gone does not take signals.
        Glibc.kill(id, 0) == 0
    }
    func terminate() { _ = Glibc.kill(id, SIGTERM) }
    func kill() { _ = Glibc.kill(id, SIGKILL) }
}
