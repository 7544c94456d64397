import ArgumentParser
import Client
import Foundation
import Model

extension AdminCommand {
    /// `apus admin replicas`
    struct Replicas: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "The replicas of keys.", subcommands: [Verify.self])

        struct Verify: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Read every replica of a key, parity too, and check all bytes.",
                discussion: """
                    Checksums are verified, and parity is computed from the data and compared: what \
                    no reader of the key does. Nothing is changed. Exit code 1 if anything is not \
                    as it should be.
                    """)
            @OptionGroup var cluster: ClusterOptions
            @Argument(help: "Which: /volume/bucket/key.") var key: String

            func run() async throws {
                let path = try ObjectPath.key(key)
                let client = try await cluster.client()
                let info = try await client.key(path, user: cluster.user)
                var rows: [ReplicasRow] = []
                let line = StatusLine(isQuiet: cluster.json)
                try await client.verifyReplicas(info) { finding in
                    rows.append(ReplicasRow(finding))
                    line.show("\(rows.count) of \(info.blockGroups.count) block groups")
                }
                line.end()
                if cluster.json {
                    try printJSON(rows)
                } else {
                    printTable(ReplicasRow.header, rows.flatMap(\.columns))
                    for row in rows { print(row.summary) }
                    if rows.isEmpty { print("the key has no bytes, and so no replicas") }
                }
                if !rows.allSatisfy(\.isWhole) { throw ExitCode.failure }
            }
        }
    }
}

/// What was found of a block group, as it is printed.
struct ReplicasRow: Encodable {
    struct Replica: Encodable {
        var index: Int
        var node, state: String
        /// Verified.
        var bytes: Int
        var detail: String
    }

    var block, replication: String
    var length: Int
    var replicas: [Replica]
    var stripes, stripesCompared: Int
    var stripesDisagreeing: [Int]
    /// Replicas that may still be lost before bytes are.
    var spare: Int
    var isWhole: Bool

    init(_ finding: GroupFinding) {
        block = "\(finding.block)"
        replication = "\(finding.replication)"
        length = finding.length
        replicas = finding.replicas.map { replica in
            Replica(
                index: replica.index, node: replica.node.map { "\($0.host):\($0.port)" } ?? "-",
                state: replica.state.rawValue, bytes: replica.bytes, detail: replica.detail)
        }
        stripes = finding.stripes
        stripesCompared = finding.stripesCompared
        stripesDisagreeing = finding.disagreeing
        spare = finding.spare
        isWhole = finding.isWhole
    }

    static let header = ["block", "index", "node", "state", "verified", "what is wrong"]

    var columns: [[String]] {
        replicas.map {
            [block, "\($0.index)", $0.node, $0.state, formatBytes($0.bytes), $0.detail]
        }
    }

    /// `block 3:17 of rs-6-3-1024k: whole; parity agrees in 4 of 4 stripes`
    var summary: String {
        let bad = replicas.filter { !["whole", "empty"].contains($0.state) }.count
        let state =
            if bad == 0 {
                "all replicas are whole"
            } else if spare < 0 {
                "UNREADABLE: \(bad) of \(replicas.count) replicas are not whole"
            } else {
                "\(bad) of \(replicas.count) replicas are not whole, \(spare) more may be lost"
            }
        let agreeing = stripesCompared - stripesDisagreeing.count
        var parity = "parity agrees in \(agreeing) of \(stripesCompared) stripes"
        if !stripesDisagreeing.isEmpty {
            parity =
                "PARITY IS WRONG in stripe "
                + stripesDisagreeing.map(String.init).joined(separator: ", ")
        }
        if stripesCompared == 0, stripes > 0 {
            parity = "parity could not be compared"
        } else if stripesCompared < stripes {
            parity += "; \(stripes - stripesCompared) of \(stripes) could not be compared"
        }
        return "block \(block) of \(replication): \(state); \(parity)"
    }
}
