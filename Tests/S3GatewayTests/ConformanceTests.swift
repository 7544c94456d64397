import Foundation
import TestSupport
import Testing

@testable import S3Gateway

/// Runs the scripts of Tests/Conformance against a gateway on a store in memory.
@Suite(.serialized) struct ConformanceTests {
    private static var script: URL {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent("Conformance/s3_conformance.py")
    }

    /// Whether python3 with boto3 is there.
    private static let hasBoto3: Bool = {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", "-c", "import boto3"]
        process.standardError = FileHandle.nullDevice
        do { try process.run() } catch { return false }
        process.waitUntilExit()
        return process.terminationStatus == 0
    }()

    @Test(
        "boto3, the aws CLI, rclone, pyarrow and hand-made requests get what they expect",
        .enabled(if: hasBoto3), .timeLimit(.minutes(10)))
    func conformance() async throws {
        let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent("s3-conformance-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let credentials = folder.appendingPathComponent("credentials")
        let log = folder.appendingPathComponent("log")
        try Data(GatewayFixture.credentials.utf8).write(to: credentials)
        try Data().write(to: log)
        try await GatewayFixture.run { gateway in
            let environment = ProcessInfo.processInfo.environment.merging(
                [
                    "APUS_S3_ENDPOINT": "http://127.0.0.1:\(gateway.port)",
                    "APUS_S3_CREDENTIALS": credentials.path,
                    "APUS_S3_MANY_PARTS": "1500",
                ]) { old, new in new }
            let status = try await Self.run(environment, log: log)
            let text = try String(contentsOf: log, encoding: .utf8)
            let lines = text.split(separator: "\n")
            #expect(status == 0, "\(lines.filter { $0.hasPrefix("FAIL") }.joined(separator: "\n"))")
            #expect(lines.last?.hasSuffix("passed, 0 failed") == true)
            #expect(gateway.store.openWriters == 0)
            #expect(gateway.store.storedBytes == 0, "bytes are kept that no key refers to")
        }
        try FileManager.default.removeItem(at: folder)
    }

    private static func run(_ environment: [String: String], log: URL) async throws -> Int32 {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", script.path]
        process.environment = environment
        let output = try FileHandle(forWritingTo: log)
        process.standardOutput = output
        process.standardError = output
        return try await withCheckedThrowingContinuation { continuation in
            process.terminationHandler = { continuation.resume(returning: $0.terminationStatus) }
            do { try process.run() } catch { continuation.resume(throwing: error) }
        }
    }
}
