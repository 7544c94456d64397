import Reactor
import Synchronization
import Telemetry

extension ContainerStore {
    /// Adds what is measured of disks, commits, containers and scrubbing to the pages of
    /// `metrics`. Capacity and free space are those that `volumes()` found last.
    public func addMetrics(to metrics: MetricsRegistry) {
        metrics.collect { [weak self] page in
            guard let self else { return }
            for disk in self.disks() { Self.add(disk, to: &page) }
            self.addCommits(to: &page)
            self.addVolumes(to: &page)
            for scrubber in self.scrubbers { Self.add(scrubber.status, to: &page) }
        }
    }

    private static func add(_ disk: DiskStatistics, to page: inout MetricsPage) {
        for measures in disk.classes {
            let labels: MetricLabels = ["disk": disk.name, "class": "\(measures.ioClass)"]
            let latencies = [
                ("read", measures.reads), ("write", measures.writes),
                ("sync", measures.synchronizations),
            ]
            for (operation, values) in latencies {
                page.histogram(
                    "apus_disk_duration_seconds",
                    "Operations on a disk, from their start to their end.",
                    labels.adding(["operation": operation]), values)
            }
            page.histogram(
                "apus_disk_wait_seconds",
                "In the disk's queue, of the operations that did not start at once.", labels,
                measures.waits)
            page.counter(
                "apus_disk_read_bytes_total", "Bytes read.", labels, Double(measures.bytesRead))
            page.counter(
                "apus_disk_written_bytes_total", "Bytes written.", labels,
                Double(measures.bytesWritten))
            page.counter(
                "apus_disk_errors_total", "Operations that failed.", labels,
                Double(measures.errors))
            page.counter(
                "apus_disk_refused_total", "Operations that found a full queue.", labels,
                Double(measures.refused))
            page.counter(
                "apus_disk_expired_total",
                "Operations whose deadline had passed before their turn came.", labels,
                Double(measures.expired))
            page.gauge(
                "apus_disk_in_flight", "Operations in flight.", labels, Double(measures.inFlight))
            page.gauge("apus_disk_queued", "Operations that wait.", labels, Double(measures.queued))
        }
    }

    private func addCommits(to page: inout MetricsPage) {
        for volume in volumeList {
            let statistics = volume.committer.statistics
            let labels: MetricLabels = ["disk": volume.path]
            page.counter(
                "apus_store_commits_total", "Rounds of syncs.", labels, Double(statistics.commits))
            page.counter(
                "apus_store_commit_writers_total",
                "Appends and deletions that the rounds answered; by commits: the mean group.",
                labels, Double(statistics.writers))
            page.counter(
                "apus_store_data_syncs_total", "Syncs of data files.", labels,
                Double(statistics.dataSyncs))
            page.counter(
                "apus_store_journal_syncs_total", "Syncs of journals.", labels,
                Double(statistics.journalSyncs))
            page.counter(
                "apus_store_appended_bytes_total", "Bytes of cells appended.", labels,
                Double(statistics.bytesAppended))
            page.counter(
                "apus_store_read_bytes_total", "Bytes of blocks read.", labels,
                Double(statistics.bytesRead))
            let (heals, kept) = volume.withState { ($0.heals, $0.kept.reduce(0) { $0 + $1.size }) }
            let help = "Damaged replicas that were to be healed in place."
            page.counter(
                "apus_store_heals_total", help, labels.adding(["outcome": "healed"]),
                Double(heals.healed))
            page.counter(
                "apus_store_heals_total", help, labels.adding(["outcome": "failed"]),
                Double(heals.failed))
            page.counter(
                "apus_store_healed_bytes_total",
                "Bytes that did not match their checksums and were written anew.", labels,
                Double(heals.bytes))
            page.gauge(
                "apus_store_kept_damage_bytes",
                "What was damaged and is kept for a while to be looked at.", labels, Double(kept))
        }
    }

    private func addVolumes(to page: inout MetricsPage) {
        for volume in seenVolumes.withLock({ $0 }) {
            let labels: MetricLabels = ["disk": volume.path]
            page.gauge(
                "apus_volume_capacity_bytes", "Size of the file system.", labels,
                Double(volume.capacity))
            page.gauge(
                "apus_volume_used_bytes", "Bytes that the store's files take.", labels,
                Double(volume.used))
            page.gauge(
                "apus_volume_available_bytes", "Bytes that may still be written.", labels,
                Double(volume.available))
            page.gauge(
                "apus_volume_failed", "1 if the volume was taken out.", labels,
                volume.isFailed ? 1 : 0)
        }
        var counts = ["open": 0, "closing": 0, "closed": 0, "unhealthy": 0, "lost": 0]
        for container in state.withLock({ Array($0.containers.values) }) {
            if let report = container.report() { counts["\(report.state)", default: 0] += 1 }
        }
        for (state, count) in counts.sorted(by: { $0.key < $1.key }) {
            page.gauge(
                "apus_store_containers", "Container replicas by state.", ["state": state],
                Double(count))
        }
    }

    private static func add(_ scrub: Scrubber.Status, to page: inout MetricsPage) {
        let labels: MetricLabels = ["disk": scrub.volume]
        page.gauge(
            "apus_scrub_round_bytes", "Bytes of the present or last round of scrubbing.", labels,
            Double(scrub.bytesTotal))
        page.gauge(
            "apus_scrub_done_bytes", "Of these, how many have been verified.", labels,
            Double(scrub.bytesDone))
        page.counter(
            "apus_scrub_rounds_total", "Rounds that were finished.", labels, Double(scrub.rounds))
        page.counter(
            "apus_scrub_damaged_total", "Blocks found damaged.", labels, Double(scrub.damaged))
    }
}
