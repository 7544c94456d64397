import RaftDriver
import SCMCore
import Telemetry

/// How the cluster is, as far as SCM knew when it last looked.
struct SCMMeasures: Sendable {
    let healthy = Gauge()
    let known = Gauge()
    let containers = Gauge()
    let safeMode = Gauge()
    let pendingDeletions = Gauge()
    let full = Gauge()
    let missingReplicas = Gauge()
    let repairsWaiting = Gauge()
    let repairsUnderWay = Gauge()
    let repairsBegun = Gauge()
    let repairsEnded = Gauge()
    let repairsGivenUp = Gauge()
    let healsUnderWay = Gauge()
    let healed = Gauge()
    let notHealed = Gauge()
    let healedBytes = Gauge()
    let disksObserved = Gauge()
    let disksAvoided = Gauge()
    let disksSpared = Gauge()

    func note(_ counts: SCMState.RepairCounts) {
        missingReplicas.set(counts.missing)
        repairsWaiting.set(counts.waiting)
        repairsUnderWay.set(counts.underWay)
        repairsBegun.set(counts.begun)
        repairsEnded.set(counts.ended)
        repairsGivenUp.set(counts.givenUp)
        healsUnderWay.set(counts.healsUnderWay)
        healed.set(counts.healed)
        notHealed.set(counts.notHealed)
        healedBytes.set(Int(clamping: counts.healedBytes))
    }

    func note(_ counts: SCMState.SlowDiskCounts) {
        disksObserved.set(counts.observed)
        disksAvoided.set(counts.avoided)
        disksSpared.set(counts.spared)
    }

    func addSlowDisks(to page: inout MetricsPage) {
        let help = "Disks slower than the others: observed, avoided, or spared for too many are."
        for (state, gauge) in [
            ("observed", disksObserved), ("avoided", disksAvoided), ("spared", disksSpared),
        ] {
            page.gauge("apus_scm_slow_disks", help, ["state": state], Double(gauge.value))
        }
    }

    /// Counters begin anew with each leadership; a member that follows has none.
    func addRepairs(to page: inout MetricsPage) {
        page.gauge(
            "apus_scm_missing_replicas",
            "Replicas of closed containers that nobody has who is there.",
            Double(missingReplicas.value))
        page.gauge(
            "apus_scm_repairs_waiting", "Containers that wait for their turn to be repaired.",
            Double(repairsWaiting.value))
        page.gauge(
            "apus_scm_repairs_under_way", "Replicas that are being rebuilt.",
            Double(repairsUnderWay.value))
        let help = "Repairs since this SCM began to lead."
        page.counter(
            "apus_scm_repairs_total", help, ["outcome": "begun"], Double(repairsBegun.value))
        page.counter(
            "apus_scm_repairs_total", help, ["outcome": "ended"], Double(repairsEnded.value))
        page.counter(
            "apus_scm_repairs_total", help, ["outcome": "given up"], Double(repairsGivenUp.value))
        page.gauge(
            "apus_scm_heals_under_way", "Damaged replicas that are being healed in place.",
            Double(healsUnderWay.value))
        let heals = "Damaged replicas, since this SCM began to lead."
        page.counter("apus_scm_heals_total", heals, ["outcome": "healed"], Double(healed.value))
        page.counter("apus_scm_heals_total", heals, ["outcome": "failed"], Double(notHealed.value))
        page.counter(
            "apus_scm_healed_bytes_total", "Bytes of damaged replicas that were written anew.",
            Double(healedBytes.value))
    }
}

extension StorageContainerManager {
    /// Adds what is measured beside the requests to the pages of `metrics`. What is told of the
    /// cluster is as old as the last tick.
    public nonisolated func addMetrics(to metrics: MetricsRegistry) {
        group.addMetrics(to: metrics)
        metrics.collect { [measures] page in
            page.gauge(
                "apus_scm_datanodes", "Datanodes that SCM knows.", ["state": "known"],
                Double(measures.known.value))
            page.gauge(
                "apus_scm_datanodes", "Datanodes that SCM knows.", ["state": "healthy"],
                Double(measures.healthy.value))
            page.gauge(
                "apus_scm_datanodes", "Datanodes that SCM knows.", ["state": "full"],
                Double(measures.full.value))
            page.gauge(
                "apus_scm_pending_deletions",
                "Deleted blocks that not all datanodes have confirmed.",
                Double(measures.pendingDeletions.value))
            page.gauge(
                "apus_scm_containers", "Containers that SCM knows.",
                Double(measures.containers.value))
            page.gauge(
                "apus_scm_safe_mode", "1 while SCM gives out no blocks.",
                Double(measures.safeMode.value))
            measures.addRepairs(to: &page)
            measures.addSlowDisks(to: &page)
        }
    }
}
