import Foundation
import Testing

/// The rules of the house that the package manager cannot check.
@Suite("Tidy")
struct TidyTests {
    private static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// Layer of each target; a target imports only from lower ones, or its own layer's L0.
    private static let layers: [String: Int] = [
        "Bytes": 0, "Model": 0, "Checksum": 0, "ErasureCode": 0, "Telemetry": 0, "Eventually": 0,
        "Chance": 0, "Linearizability": 0,
        "Raft": 1, "Wire": 1, "ContainerFormat": 1, "SCMCore": 1, "OMCore": 1,
        "Reactor": 2, "Transport": 2,
        "RaftLog": 3, "RaftDriver": 3, "MetadataStore": 3, "ContainerStore": 3,
        "SCM": 4, "OM": 4, "Datanode": 4, "Client": 4, "DiskTune": 4,
        "S3Gateway": 5, "MetricsGateway": 5, "apus": 6, "TestSupport": 6, "GroupTestSupport": 6,
        "Simulator": 6, "GroupSimulator": 6,
        "simulate": 7,
    ]

    /// Within a layer, who may import whom.
    private static let sideways: [String: Set<String>] = [
        "ErasureCode": ["Model", "Checksum"], "OMCore": ["Wire"], "SCMCore": ["Wire"],
        "Transport": ["Reactor"], "RaftDriver": ["RaftLog", "MetadataStore"],
        "GroupSimulator": ["Simulator"],
    ]

    private static let shims: Set<String> = [
        "CLiburing", "CISAL", "CLinux", "CChecksum", "CDigest", "CGalois",
    ]
    private static let mayImportShims: Set<String> = [
        "Bytes", "Checksum", "ErasureCode", "Reactor", "Transport", "Security",
    ]

    private static func swiftFiles(_ folder: String) throws -> [URL] {
        let base = root.appendingPathComponent(folder)
        let names = try FileManager.default.subpathsOfDirectory(atPath: base.path)
        return names.filter { $0.hasSuffix(".swift") }.sorted().map(base.appendingPathComponent)
    }

    private static func imports(_ file: URL) throws -> [String] {
        try String(contentsOf: file, encoding: .utf8).split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            guard let index = words.firstIndex(of: "import"), index <= 1, words.count > index + 1,
                index == 0 || ["public", "@testable", "internal", "private"].contains(words[0])
            else { return nil }
            return String(words[index + 1])
        }
    }

    @Test("every target has a layer and imports only from below")
    func layers() throws {
        for file in try Self.swiftFiles("Sources") {
            let target = file.pathComponents[Self.root.pathComponents.count + 1]
            let layer = try #require(Self.layers[target], "\(target) has no layer in TidyTests")
            for module in try Self.imports(file) {
                if let other = Self.layers[module] {
                    let isAllowed =
                        other < layer || Self.sideways[target]?.contains(module) == true
                        || target == "TestSupport" || module == target
                    #expect(
                        isAllowed,
                        "\(target) (L\(layer)) imports \(module) (L\(other)) in \(file.lastPathComponent)"
                    )
                } else if Self.shims.contains(module) {
                    #expect(
                        Self.mayImportShims.contains(target),
                        "\(target) imports \(module) in \(file.lastPathComponent)")
                }
            }
        }
    }

    @Test("values and pure cores know no operating system, clock or framework")
    func purity() throws {
        let forbidden: Set<String> = [
            "Foundation", "Dispatch", "Glibc", "NIOCore", "NIOPosix", "GRDB", "Hummingbird",
            "Logging",
        ]
        for file in try Self.swiftFiles("Sources") {
            let target = file.pathComponents[Self.root.pathComponents.count + 1]
            guard let layer = Self.layers[target], layer <= 1 else { continue }
            // The generated messages keep bytes in Foundation's Data: see docs/decisions/0002.
            guard target != "Wire" else { continue }
            let found = Set(try Self.imports(file)).intersection(forbidden)
            #expect(found.isEmpty, "\(file.lastPathComponent) of \(target) imports \(found)")
        }
    }

    @Test("only gateways import NIO and Hummingbird")
    func frameworks() throws {
        for file in try Self.swiftFiles("Sources") {
            let target = file.pathComponents[Self.root.pathComponents.count + 1]
            guard let layer = Self.layers[target], layer < 5 else { continue }
            let found = try Self.imports(file).filter {
                $0.hasPrefix("NIO") || $0.hasPrefix("Hummingbird")
            }
            #expect(found.isEmpty, "\(target) imports \(found)")
        }
    }

    /// Names of a file's code: comments and what stands in quotes left out.
    private static func words(_ file: URL) throws -> [[Substring]] {
        try String(contentsOf: file, encoding: .utf8).split(separator: "\n").compactMap { line in
            guard !line.drop(while: { $0 == " " }).hasPrefix("//") else { return nil }
            let code = line.split(separator: "\"", omittingEmptySubsequences: false).enumerated()
                .filter { $0.offset % 2 == 0 }.map(\.element).joined(separator: " ")
            return code.split { !$0.isLetter && !$0.isNumber && $0 != "_" }.map {
                Substring(String($0))
            }
        }
    }

    /// The types that a file declares at its top.
    private static func types(in file: URL) throws -> Set<Substring> {
        let kinds: Set<Substring> = ["struct", "class", "enum", "protocol", "actor", "typealias"]
        let lines = try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
        return Set(
            lines.filter { $0.first != " " && !$0.hasPrefix("//") }.compactMap { line in
                let words = line.split { !$0.isLetter && !$0.isNumber && $0 != "_" }
                guard let kind = words.firstIndex(where: kinds.contains), words.count > kind + 1
                else { return nil }
                return words[kind + 1]
            })
    }

    @Test("the client's side of names and that of bytes name no type of each other")
    func clientSides() throws {
        let files = try Self.swiftFiles("Sources/Client")
        func side(_ file: URL) -> String {
            let folder = file.deletingLastPathComponent().lastPathComponent
            if folder != "Client" { return folder }
            // What puts them together; the other files here are values that all know.
            let name = file.lastPathComponent
            return name.hasPrefix("ClusterClient") || name == "SCMClient.swift" ? "whole" : "values"
        }
        var owner: [Substring: String] = [:]
        for file in files {
            for type in try Self.types(in: file) { owner[type] = side(file) }
        }
        let expected: [Substring: String] = [
            "OMClient": "Names", "KeyReservations": "Names", "DatanodeClient": "Bytes",
            "KeyWriter": "Bytes", "ECReader": "Bytes", "SCMClient": "whole",
            "ClusterClient": "whole", "ObjectStore": "values",
        ]
        for (type, folder) in expected {
            #expect(owner[type] == folder, "\(type) belongs to \(owner[type] ?? "nobody")")
        }
        for file in files where side(file) != "whole" {
            for word in Set(try Self.words(file).joined()) {
                guard let other = owner[word], other != "values", other != side(file) else {
                    continue
                }
                Issue.record("\(side(file))/\(file.lastPathComponent) names \(word) of \(other)")
            }
        }
    }

    @Test("no file is longer than 800 lines")
    func fileLengths() throws {
        for file in try Self.swiftFiles("Sources") + Self.swiftFiles("Tests")
        where !file.lastPathComponent.hasSuffix(".pb.swift") {
            let lines = try String(contentsOf: file, encoding: .utf8).split(
                separator: "\n", omittingEmptySubsequences: false
            ).count
            #expect(lines <= 801, "\(file.lastPathComponent) has \(lines) lines")
        }
    }

    @Test("no function is longer than 70 lines")
    func functionLengths() throws {
        for file in try Self.swiftFiles("Sources")
        where !file.lastPathComponent.hasSuffix(".pb.swift") {
            let lines = try String(contentsOf: file, encoding: .utf8).split(
                separator: "\n", omittingEmptySubsequences: false)
            var start: (line: Int, indent: Int, name: Substring)?
            for (number, line) in lines.enumerated() {
                let indent = line.prefix { $0 == " " }.count
                let text = line.dropFirst(indent)
                if let open = start, text.hasPrefix("}"), indent == open.indent {
                    let length = number - open.line + 1
                    #expect(
                        length <= 71, "\(open.name) in \(file.lastPathComponent): \(length) lines")
                    start = nil
                } else if start == nil || indent <= start!.indent,
                    text.contains("func ") || text.hasPrefix("init(") || text.contains(" init("),
                    !text.hasPrefix("//"), !text.hasPrefix("///")
                {
                    start = (number, indent, text.prefix(60))
                }
            }
        }
    }

    @Test("sources hold no unfinished marks and no tries that trap")
    func marks() throws {
        for file in try Self.swiftFiles("Sources")
        where !file.lastPathComponent.hasSuffix(".pb.swift") {
            let text = try String(contentsOf: file, encoding: .utf8)
            for mark in ["TODO", "FIXME", " try!", "fatalError("] {
                #expect(!text.contains(mark), "\(file.lastPathComponent) holds \(mark)")
            }
            let unchecked = text.contains("@unchecked Sendable")
            let target = file.pathComponents[Self.root.pathComponents.count + 1]
            #expect(
                !unchecked || ["Reactor", "Bytes"].contains(target),
                "\(file.lastPathComponent) of \(target) is @unchecked Sendable")
        }
    }
}
