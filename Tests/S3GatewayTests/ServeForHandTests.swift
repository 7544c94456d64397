import Foundation
import Testing

@testable import S3Gateway

/// Serves for as long as a file exists, for work on the conformance scripts by hand:
/// `APUS_S3_SERVE=/tmp/x swift test --filter ServeForHand`.
@Suite struct ServeForHandTests {
    private static var path: String? { ProcessInfo.processInfo.environment["APUS_S3_SERVE"] }

    @Test("serves for as long as the file of APUS_S3_SERVE exists", .enabled(if: path != nil))
    func serve() async throws {
        let path = try #require(Self.path)
        try await GatewayFixture.run(port: 9878) { gateway in
            try GatewayFixture.credentials.write(
                toFile: "\(path).credentials", atomically: true, encoding: .utf8)
            try "http://127.0.0.1:\(gateway.port)\n".write(
                toFile: path, atomically: true, encoding: .utf8)
            while FileManager.default.fileExists(atPath: path) {
                try await Task.sleep(for: .milliseconds(200))
            }
        }
    }
}
