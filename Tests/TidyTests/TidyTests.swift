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
        "Raft": 1, "Wire": 1, "ContainerFormat": 1, "SCMCore": 1, "OMCore": 1,
        "Reactor": 2, "Transport": 2,
        "RaftLog": 3, "RaftDriver": 3, "MetadataStore": 3, "ContainerStore": 3,
        "SCM": 4, "OM": 4, "Datanode": 4, "Client": 4, "DiskTune": 4,
        "S3Gateway": 5, "MetricsGateway": 5, "apus": 6, "TestSupport": 6, "Simulator": 6,
        "simulate": 7,
    ]

    /// Within a layer, who may import whom.
    private static let sideways: [String: Set<String>] = [
        "ErasureCode": ["Model", "Checksum"], "OMCore": ["Wire"], "SCMCore": ["Wire"],
        "Transport": ["Reactor"], "RaftDriver": ["RaftLog", "MetadataStore"],
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
