import ArgumentParser
import Client
import Foundation
import MetricsGateway
import Model
import Reactor
import Telemetry
import Transport
import Wire

/// `apus admin trace`
struct TraceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace", abstract: "Where the time of one request went.",
        discussion: """
            REQUEST-ID is the x-amz-request-id of an S3 answer. All roles are asked what they \
            still know of it: of those that took \
            \(TraceRing.Limits.slowNanoseconds / 1_000_000) ms or were slow for their kind, of \
            \(TraceRing.Limits.requestsPerTick) others a second and one in \
            \(TraceRing.Limits.sampled). Lines marked > are the longest chain: what the request \
            waited for. \
            With --slow the slowest requests that gateways remember are listed (10, or as many as \
            the argument says).
            """)
    @OptionGroup var cluster: ClusterOptions
    @Argument(help: "16 hexadecimal digits; with --slow: how many to list.") var request: String?
    @Flag(help: "List the slowest requests that are remembered.") var slow = false
    @Flag(help: "Every span, however many lie side by side.") var all = false
    @Option(help: "http://HOST:PORT of a gateway's metrics, beside those that are found.")
    var gateway: [String] = []

    func validate() throws {
        if slow {
            guard let request else { return }
            guard let count = Int(request), (1...TraceRing.Limits.slowest).contains(count) else {
                throw ValidationError(
                    "--slow lists 1 to \(TraceRing.Limits.slowest) requests, not '\(request)'")
            }
        } else if request.flatMap({ TraceReport.identity($0[...]) }) == nil {
            throw ValidationError(
                "a request is named by 16 hexadecimal digits, as in x-amz-request-id")
        }
    }

    func run() async throws {
        let sources = TraceCollector(
            client: try await cluster.client(), gateways: try await gateways())
        if slow { return try listSlowest(sources, Int(request ?? "") ?? 10) }
        guard let id = TraceReport.identity((request ?? "")[...]) else {
            preconditionFailure("the identity was validated")
        }
        let (found, problems) = try await sources.collect(id)
        for problem in problems { note(problem) }
        guard found.contains(where: { !$0.spans.isEmpty }) else {
            throw StoreError(
                .unavailable,
                "no role knows request \(TraceReport.text(id)): it was never made, or was quick and "
                    + "not kept, or so many came after it that it is forgotten (a role keeps "
                    + "\(TraceRing.Limits.spans) spans)")
        }
        let tree = TraceTree(found)
        if cluster.json { return try printJSON(TraceOutput(id, tree)) }
        TracePrinter(tree, showsAll: all).print(id)
    }

    private func listSlowest(_ sources: TraceCollector, _ count: Int) throws {
        let (spans, problems) = sources.slowest(count)
        for problem in problems { note(problem) }
        let rows = spans.map { node, span in TraceOutput.Slow(node, span) }
        if cluster.json { return try printJSON(rows) }
        printTable(
            ["request", "took", "operation", "status", "bytes", "user", "gateway", "began"],
            rows.map {
                [
                    $0.request, TracePrinter.duration($0.durationNanoseconds), $0.operation,
                    "\($0.status)", formatBytes(Int($0.bytes)), $0.user, $0.gateway,
                    Date(timeIntervalSince1970: Double($0.startNanoseconds) / 1e9)
                        .formatted(.iso8601),
                ]
            })
    }

    /// The addresses of gateways' metrics: of `apus up`'s folder, of the settings, of the options.
    private func gateways() async throws -> [String] {
        var found = gateway
        let file = try cluster.file()
        let settings = try await Settings(file: file, overrides: [])
        var folder = settings.text("node.run")
        if folder.isEmpty { folder = (file as NSString).deletingLastPathComponent + "/../run" }
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        for name in names.sorted() where name.hasPrefix("s3g") && name.hasSuffix(".metrics") {
            let text = FileManager.default.contents(atPath: "\(folder)/\(name)") ?? Data()
            found.append(String(decoding: text, as: UTF8.self).filter { !$0.isWhitespace })
        }
        let address = settings.text("s3.metrics")
        if found.isEmpty, !address.isEmpty, !address.hasSuffix(":0") {
            found.append("http://\(address)")
        }
        return found.map { $0.hasSuffix("/metrics") ? String($0.dropLast(8)) : $0 }
    }
}

/// Asks all roles of a cluster what they noted of a request.
struct TraceCollector {
    let client: ClusterClient
    /// `http://HOST:PORT` of the gateways' metrics.
    let gateways: [String]

    /// What was found, and who could not be asked.
    func collect(_ id: UInt64) async throws -> ([TraceSource], problems: [String]) {
        var roles: [(ClusterClient.Role, name: String, address: String)] = [
            (.om, "OM", client.omAddress), (.scm, "SCM", client.scmAddress),
        ]
        var problems: [String] = []
        var request = SCMStatusRequest()
        request.nodes = true
        do throws(StoreError) {
            for node in try await client.scm.status(request).nodes {
                guard let address = try DatanodeAddress(node.address) else { continue }
                let text = "\(address.host):\(address.port)"
                roles.append((.datanode(address), "datanode \(text)", text))
            }
        } catch {
            problems.append("SCM does not tell the datanodes: \(error)")
        }
        var sources: [TraceSource] = []
        await withTaskGroup(of: Result<TraceSource, StoreError>.self) { group in
            for (role, name, address) in roles {
                group.addTask {
                    do throws(StoreError) {
                        let response = try await client.trace(id, of: role)
                        var spans: [TraceSpan] = []
                        for span in response.spans { spans.append(try TraceSpan(span)) }
                        return .success(
                            TraceSource(
                                role: response.role, node: response.node, address: address,
                                spans: spans))
                    } catch {
                        return .failure(StoreError(error.code, "\(name): \(error.message)"))
                    }
                }
            }
            for await result in group {
                switch result {
                case .success(let source): sources.append(source)
                case .failure(let error): problems.append("not asked: \(error.message)")
                }
            }
        }
        let (reports, unheard) = ask("/trace?id=\(TraceReport.text(id))")
        for report in reports {
            sources.append(
                TraceSource(
                    role: report.role, node: report.node, address: "", spans: report.values))
        }
        sources.sort { $0.node < $1.node }
        return (sources, problems + unheard)
    }

    /// The slowest requests of all gateways, each with the gateway's name.
    func slowest(_ count: Int) -> ([(String, TraceSpan)], problems: [String]) {
        let (reports, problems) = ask("/trace?slowest=\(count)")
        let spans = reports.flatMap { report in report.values.map { (report.node, $0) } }
            .sorted { $0.1.durationNanoseconds > $1.1.durationNanoseconds }
        return (Array(spans.prefix(count)), problems)
    }

    private func ask(_ path: String) -> ([TraceReport], problems: [String]) {
        var problems: [String] = []
        if gateways.isEmpty {
            problems.append("no gateway is known; --gateway http://HOST:PORT names one")
        }
        var reports: [TraceReport] = []
        for gateway in gateways {
            do {
                let text = try HTTPFetch.get(gateway + path)
                reports.append(try JSONDecoder().decode(TraceReport.self, from: Data(text.utf8)))
            } catch {
                problems.append("not asked: gateway \(gateway): \(error)")
            }
        }
        return (reports, problems)
    }
}
