import Reactor
import Telemetry

/// What is measured of a group's log and tables.
final class GroupMeasures: Sendable {
    /// Writes of the log with their sync, one for each batch.
    let appends = LatencyHistogram()
    /// Transactions on the tables, one for each batch of what is durable.
    let transactions = LatencyHistogram()
    let commands = Counter()
    let bytes = Counter()

    /// Notes that a batch is durable.
    func noteAppend(of count: Int, bytes size: Int, took duration: Duration) {
        appends.record(duration)
        commands.add(UInt64(count))
        bytes.add(UInt64(size))
    }
}

extension MetadataEngine {
    /// Adds what is measured of log and tables to the pages of `metrics`. Commands by appends is
    /// the mean size of a batch.
    func addMetrics(to metrics: MetricsRegistry) {
        metrics.collect { [weak self] page in
            guard let self else { return }
            page.histogram(
                "apus_log_append_duration_seconds",
                "Writes of the log with their sync, one for each batch of commands.",
                self.member.measures.appends.snapshot())
            page.counter(
                "apus_log_commands_total", "Commands written to the log.",
                Double(self.member.measures.commands.value))
            page.counter(
                "apus_log_command_bytes_total", "Bytes of the commands written to the log.",
                Double(self.member.measures.bytes.value))
            page.gauge(
                "apus_log_waiting_commands", "Commands that wait to be written to the log.",
                Double(self.member.waitingCommands))
            page.histogram(
                "apus_tables_transaction_duration_seconds",
                "Transactions on the tables, each with all commands that were durable.",
                self.member.measures.transactions.snapshot())
            page.gauge(
                "apus_log_applied_index", "Index of the last command that can be read.",
                Double(self.tables.appliedIndex))
        }
    }
}
