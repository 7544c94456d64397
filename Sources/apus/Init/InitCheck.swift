import ArgumentParser
import Crypto
import Foundation
import Model
import Reactor

extension InitCommand {
    /// `apus init check`
    struct Check: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Check this host, and that it and the others reach each other.",
            discussion: """
                Ports are free or held by the role that they are for; directories and disks are \
                empty or this cluster's, and belong to the user of the roles; the other hosts are \
                reached and reach this one, with the same settings and the same time. For that it \
                runs on all hosts at the same time. Nothing is changed. Exits with 0 if all is well.
                """)
        @OptionGroup var file: InitFile
        @Flag(help: "Only what this host can tell of itself.") var alone = false
        @Option(help: "Seconds to wait for the other hosts.") var wait = 60.0
        @Option(help: "The port at which the hosts talk to each other meanwhile.")
        var port = PeerCheck.Limits.port
        @Flag(help: "Print JSON, for programs.") var json = false

        private struct Result: Encodable {
            var host: String
            var isWell: Bool
            var findings: [CheckFinding]
        }

        func validate() throws {
            guard (1...65535).contains(port) else {
                throw ValidationError("--port is 1 to 65535, not \(port)")
            }
            guard (0...3600).contains(wait) else {
                throw ValidationError("--wait is 0 to 3600 seconds, not \(wait)")
            }
        }

        func run() async throws {
            let place = try await file.place()
            var findings = try await ClusterCheck.findings(place)
            let here = HostCheck(place)
            findings += try here.findings()
            let reactor = try Reactor.start()
            for role in place.roles {
                if let stranger = try await here.stranger(role, on: reactor) {
                    findings.append(stranger)
                }
            }
            if !alone, place.hosts.count > 1 {
                findings += try await others(of: place)
            }
            let isWell = !findings.contains { $0.state == .fail }
            if json {
                try printJSON(Result(host: place.name, isWell: isWell, findings: findings))
            } else {
                Self.show(findings, of: place, isWell)
            }
            guard isWell else { throw ExitCode.failure }
        }

        private func others(of place: HostPlace) async throws -> [CheckFinding] {
            var others: [HostPlace] = []
            for name in place.hosts where name != place.name {
                others.append(try await place.other(name))
            }
            let data = FileManager.default.contents(atPath: place.file) ?? Data()
            let digest = SHA256.hash(data: data).map { String(format: "%02x", $0) }.joined()
            let check = try PeerCheck(place, others: others, digest: digest, port: port)
            let line = SharedStatusLine(isQuiet: json)
            let seconds = wait
            // It waits for others for as long as a minute: not on a thread of the pool.
            let findings = await withCheckedContinuation { continuation in
                Thread.detachNewThread {
                    continuation.resume(
                        returning: check.run(seconds: seconds) { line.show($0, isLast: false) })
                }
            }
            line.show("", isLast: true)
            return findings
        }

        private static func show(_ findings: [CheckFinding], of place: HostPlace, _ isWell: Bool) {
            for finding in findings {
                let state = finding.state == .fail ? "FAIL" : finding.state.rawValue
                print(state.padding(toLength: 6, withPad: " ", startingAt: 0) + shown(finding.what))
                if let advice = finding.advice { print("      do: \(shown(advice))") }
            }
            let failed = findings.count { $0.state == .fail }
            print(
                isWell
                    ? "\(place.name) is ready"
                    : "\(place.name) is NOT ready: \(counted(failed, "thing")) to mend")
        }
    }
}
