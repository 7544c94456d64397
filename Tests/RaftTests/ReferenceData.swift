import Foundation
import Testing

@testable import Raft

/// Where the reference data of etcd's core is, which the repository does not carry.
enum ReferenceData {
    /// The root of the repository.
    static let repository = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// `APUS_RAFT_TESTDATA`, or the folder beside the repository.
    static var folder: URL {
        if let path = ProcessInfo.processInfo.environment["APUS_RAFT_TESTDATA"] {
            return URL(fileURLWithPath: path)
        }
        return repository.deletingLastPathComponent()
            .appendingPathComponent("shared/raft-testdata")
    }

    /// Whether it is there.
    static var isPresent: Bool {
        FileManager.default.fileExists(atPath: folder.appendingPathComponent("quorum").path)
    }

    /// The files of a kind, by name.
    static func files(_ kind: String) throws -> [DataDrivenFile] {
        try files(in: folder.appendingPathComponent(kind))
    }

    /// The `.txt` files of a folder, by name.
    static func files(in folder: URL) throws -> [DataDrivenFile] {
        try FileManager.default.contentsOfDirectory(atPath: folder.path)
            .filter { $0.hasSuffix(".txt") }.sorted()
            .map { try DataDrivenFile(contentsOf: folder.appendingPathComponent($0)) }
    }
}
