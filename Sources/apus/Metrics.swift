import ArgumentParser
import Foundation
import Logging
import MetricsGateway
import Model
import Telemetry

/// The address where a role in this process tells its metrics, and the file that says so.
struct MetricsEndpoint: Sendable {
    let server: MetricsServer
    let file: String?

    /// ` metrics=URL`, for the line that tells that the role is ready.
    var announcement: String { " metrics=\(server.url)" }

    func stop() async {
        await server.stop()
        if let file { unlink(file) }
    }
}

extension Roles {
    /// What the role `role` with these settings tells of itself.
    static func telemetry(_ role: String, _ settings: Settings) throws -> RoleTelemetry {
        let name = settings.text("node.name")
        let isEnabled = settings.text("telemetry.enabled")
        guard isEnabled == "true" || isEnabled == "false" else {
            throw StoreError(
                .invalidArgument, "telemetry.enabled is true or false, not '\(isEnabled)'")
        }
        let telemetry = RoleTelemetry(
            role: role, name: name.isEmpty ? role : name, isEnabled: isEnabled == "true")
        ProcessMetrics.add(to: telemetry.metrics, version: Apus.configuration.version)
        return telemetry
    }

    /// Serves `telemetry` where the setting `GROUP.metrics` says; nil if it is empty.
    static func serve(
        _ telemetry: RoleTelemetry, _ group: String, _ settings: Settings, _ logger: Logger
    ) async throws -> MetricsEndpoint? {
        let address = settings.text("\(group).metrics")
        guard !address.isEmpty else { return nil }
        let server = try await MetricsServer.start(address, telemetry, logger: logger)
        let folder = settings.text("node.run")
        guard !folder.isEmpty else { return MetricsEndpoint(server: server, file: nil) }
        let file = "\(folder)/\(telemetry.name).metrics"
        do {
            try Data("\(server.url)\n".utf8).write(
                to: URL(fileURLWithPath: file), options: .atomic)
        } catch {
            await server.stop()
            throw StoreError(.io, "cannot write \(file): \(error.localizedDescription)")
        }
        return MetricsEndpoint(server: server, file: file)
    }
}
