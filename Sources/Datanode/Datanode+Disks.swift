import ContainerStore
import Model
import Reactor
import Telemetry
import Transport
import Wire

extension Datanode {
    /// Adds what is measured beside the requests to the pages of `metrics`.
    public func addMetrics(to metrics: MetricsRegistry) { store.addMetrics(to: metrics) }

    /// What was measured of each disk since the start.
    func disks() async -> RPCReply {
        var response = DNDisksResponse()
        response.id = id.message
        let scrubs = Dictionary(
            store.scrubbers.map { ($0.status.volume, $0.status) }, uniquingKeysWith: { $1 })
        let volumes = await store.volumes()
        response.nanoseconds = MonotonicTime.now().nanoseconds
        response.disks = zip(volumes, store.disks()).map { volume, disk in
            var state = DNDiskState()
            state.volume = volume.message
            state.classes = disk.classes.map(\.message)
            if let scrub = scrubs[volume.path] { state.scrub = scrub.message }
            return state
        }
        return RPCReply(response.encoded)
    }
}

extension DiskStatistics.Class {
    var message: DNDiskClass {
        var message = DNDiskClass()
        message.ioClass = UInt32(ioClass.rawValue)
        message.reads = reads.message
        message.writes = writes.message
        message.syncs = synchronizations.message
        message.waits = waits.message
        message.bytesRead = bytesRead
        message.bytesWritten = bytesWritten
        message.errors = errors
        message.refused = refused
        message.inFlight = UInt64(clamping: inFlight)
        message.queued = UInt64(clamping: queued)
        return message
    }
}

extension LatencySnapshot {
    var message: DNLatencies {
        var message = DNLatencies()
        let buckets = buckets
        message.buckets = buckets.map { UInt32($0.index) }
        message.counts = buckets.map(\.count)
        message.sum = sum
        message.maximum = maximum
        return message
    }
}

extension Scrubber.Status {
    var message: DNScrubState {
        var message = DNScrubState()
        message.activity = activity.rawValue
        message.bytesDone = UInt64(bytesDone)
        message.bytesTotal = UInt64(bytesTotal)
        message.bytesPerSecond = UInt64(bytesPerSecond)
        message.rounds = UInt64(rounds)
        message.damaged = UInt64(damaged)
        return message
    }
}
