import Bytes
import Reactor
import Telemetry

extension DiskTuner {
    /// Writes that share a sync when the gain of batching is measured.
    static let batch = 16

    /// Measures what a sync costs: over written extents, over new ones, and shared by a batch.
    func syncCosts(_ file: MeasuringFile, _ path: String) async throws(IOError) -> SyncCosts {
        func tell(_ text: String, _ part: Double) {
            progress(Step(path: path, text: text, part: part))
        }
        tell("syncs after overwrites", 0.9)
        let places = file.bytes / 4096
        var random = SplitMix64(state: 7)
        let over = try await repeatedly { () async throws(IOError) in
            try await writeAndSync(
                file, at: [Int(random.next() % UInt64(places)) * 4096])
        }
        tell("syncs after new extents", 0.94)
        var end = file.bytes
        let new = try await repeatedly { () async throws(IOError) in
            defer { end += 4096 }
            return try await writeAndSync(file, at: [end])
        }
        tell("syncs shared by \(Self.batch) writes", 0.97)
        let shared = try await repeatedly { () async throws(IOError) in
            try await writeAndSync(
                file, at: (0..<Self.batch).map { _ in Int(random.next() % UInt64(places)) * 4096 })
        }
        return SyncCosts(
            overwriteMicroseconds: Double(over.whole.p50) / 1000,
            overwriteSyncMicroseconds: Double(over.sync.p50) / 1000,
            overwriteSyncP99Microseconds: Double(over.sync.p99) / 1000,
            newExtentMicroseconds: Double(new.whole.p50) / 1000,
            newExtentSyncMicroseconds: Double(new.sync.p50) / 1000,
            newExtentSyncP99Microseconds: Double(new.sync.p99) / 1000,
            batch: Self.batch, batchMicroseconds: Double(shared.whole.p50) / 1000)
    }

    private func repeatedly(
        _ body: () async throws(IOError) -> (whole: UInt64, sync: UInt64)
    ) async throws(IOError) -> (whole: LatencySnapshot, sync: LatencySnapshot) {
        let (whole, sync) = (LatencyHistogram(), LatencyHistogram())
        let end = reactor.now().advanced(by: options.syncDuration)
        repeat {
            let took = try await body()
            whole.record(nanoseconds: took.whole)
            sync.record(nanoseconds: took.sync)
        } while reactor.now() < end
        return (whole.snapshot(), sync.snapshot())
    }

    /// Writes 4 KiB at each of `offsets` at once, then syncs. How long both took and the sync
    /// alone, in nanoseconds.
    private func writeAndSync(
        _ file: MeasuringFile, at offsets: [Int]
    ) async throws(IOError) -> (whole: UInt64, sync: UInt64) {
        let payload = file.noise(4096, seed: UInt64(offsets[0]))
        let began = reactor.now()
        if offsets.count == 1 {
            try await file.file.write(payload, at: offsets[0])
        } else {
            let failure = await withTaskGroup(of: IOError?.self) { group in
                for offset in offsets {
                    group.addTask(executorPreference: reactor) {
                        do throws(IOError) {
                            try await file.file.write(payload, at: offset)
                            return nil
                        } catch { return error }
                    }
                }
                var failure: IOError?
                for await error in group { failure = failure ?? error }
                return failure
            }
            if let failure { throw failure }
        }
        let written = reactor.now()
        try await file.file.synchronize()
        let ended = reactor.now()
        return (
            ended.nanoseconds - began.nanoseconds, ended.nanoseconds - written.nanoseconds
        )
    }
}
