import Bytes
import Model
import Reactor
import Synchronization
import Telemetry

/// Measures a disk: throughput and latency at each depth, and what a sync costs.
public struct DiskTuner: Sendable {
    /// How a disk is measured. The defaults take less than 60 s.
    public struct Options: Sendable {
        /// Bytes of the measuring file, a multiple of 1 MiB.
        public var fileBytes: Int
        /// Depths that are tried, growing.
        public var smallDepths: [Int]
        public var largeDepths: [Int]
        /// How long one depth is measured in each of the passes, after a tenth for a start.
        public var pointDuration: Duration
        /// All depths are gone through so often, and of each the best pass counts.
        public var passes: Int
        /// How long each of the three sync measurements takes.
        public var syncDuration: Duration

        /// A measurement with a file of `fileBytes`.
        public init(fileBytes: Int = 1 << 30) {
            self.fileBytes = fileBytes
            smallDepths = [1, 2, 4, 8, 16, 32, 64, 128]
            largeDepths = [1, 2, 4, 8, 16, 32]
            pointDuration = .milliseconds(400)
            passes = 3
            syncDuration = .milliseconds(1200)
        }
    }

    /// How far a measurement is.
    public struct Step: Sendable {
        public var path: String
        /// What is being done, for a person.
        public var text: String
        /// 0…1.
        public var part: Double
    }

    public let reactor: Reactor
    public let options: Options
    let progress: @Sendable (Step) -> Void

    /// A tuner on `reactor` that tells `progress` how far it is.
    public init(
        on reactor: Reactor, options: Options,
        progress: @escaping @Sendable (Step) -> Void = { _ in }
    ) {
        precondition(
            options.passes > 0 && !options.smallDepths.isEmpty && !options.largeDepths.isEmpty,
            "a measurement has a pass and a depth")
        self.reactor = reactor
        self.options = options
        self.progress = progress
    }

    /// A reactor to measure on: each operation reaches the kernel as soon as it is asked for, so
    /// that the disk is seen and not the reactor's batches.
    public static func startReactor() throws(StoreError) -> Reactor {
        var options = Reactor.Options()
        options.requestsPerTurn = 1
        do throws(IOError) { return try Reactor.start(options) } catch {
            throw StoreError(.io, error.description)
        }
    }

    /// Measures the disk below `path`, which `MeasuredPath` has looked at. Nothing of it is changed.
    ///
    /// Throws `noSpace` and `io`.
    public func measure(_ path: MeasuredPath) async throws(StoreError) -> DiskReport {
        let began = reactor.now()
        let written = Counter()
        let total = options.fileBytes
        let tell = progress
        let name = path.path
        let file = try await MeasuringFile.make(in: name, bytes: total, on: reactor) { count in
            written.add(UInt64(count))
            let part = Double(written.value) / Double(total)
            tell(Step(path: name, text: "writing the measuring file", part: 0.1 * part))
        }
        do throws(IOError) {
            let (curves, spread) = try await sweep(file, name)
            let sync = try await syncCosts(file, name)
            try await file.file.close()
            progress(Step(path: name, text: "done", part: 1))
            let nanoseconds = reactor.now().nanoseconds - began.nanoseconds
            return DiskReport(
                path: name, fileBytes: total, isDirect: file.file.isDirect,
                seconds: Double(nanoseconds) / 1e9, spread: spread, curves: curves, sync: sync)
        } catch { throw StoreError(.io, error.description) }
    }

    // MARK: Curves

    /// What was counted at one depth: the best of the passes, since others at work on the disk
    /// can only take from it.
    private struct Tally {
        var best = 0.0
        var worst = Double.infinity
        var latencies = LatencySnapshot()

        mutating func add(_ rate: Double, _ latencies: LatencySnapshot) {
            worst = min(worst, rate)
            guard rate > best else { return }
            best = rate
            self.latencies = latencies
        }

        var spread: Double { best > 0 ? (best - worst) / best : 0 }
    }

    private func depths(_ work: DiskWork) -> [Int] {
        work.operationBytes > 4096 ? options.largeDepths : options.smallDepths
    }

    private func sweep(
        _ file: MeasuringFile, _ path: String
    ) async throws(IOError) -> (curves: [DiskCurve], spread: Double) {
        var tallies = DiskWork.allCases.map { depths($0).map { _ in Tally() } }
        let steps = Double(tallies.reduce(0) { $0 + $1.count } * options.passes)
        var step = 0.0
        for pass in 0..<options.passes {
            for (number, work) in DiskWork.allCases.enumerated() {
                for (index, depth) in depths(work).enumerated() {
                    progress(
                        Step(
                            path: path, text: "\(work.title), depth \(depth)",
                            part: 0.1 + 0.8 * step / steps))
                    let seed = UInt64(pass * 10_000 + number * 1000 + index)
                    let (count, seconds, latencies) = try await run(file, work, depth, seed: seed)
                    tallies[number][index].add(count / seconds, latencies)
                    step += 1
                }
            }
        }
        let spreads = tallies.flatMap { $0.map(\.spread) }.sorted()
        let curves = DiskWork.allCases.enumerated().map { number, work in
            let points = zip(depths(work), tallies[number]).map { depth, tally in
                DiskPoint(
                    depth: depth, operationsPerSecond: tally.best,
                    p50Microseconds: Double(tally.latencies.p50) / 1000,
                    p99Microseconds: Double(tally.latencies.p99) / 1000)
            }
            return DiskCurve(work: work, points: points)
        }
        return (curves, spreads[spreads.count / 2])
    }

    /// Keeps `depth` operations in flight at random places for the time of a point. Returns how
    /// many ended in how many seconds, and their latencies.
    func run(
        _ file: MeasuringFile, _ work: DiskWork, _ depth: Int, seed: UInt64
    ) async throws(IOError) -> (Double, Double, LatencySnapshot) {
        let histogram = LatencyHistogram()
        let start = reactor.now().advanced(by: options.pointDuration / 10)
        let end = start.advanced(by: options.pointDuration)
        let failure = await withTaskGroup(of: IOError?.self) { group in
            for task in 0..<depth {
                group.addTask(executorPreference: reactor) {
                    let payload = file.noise(work.operationBytes, seed: seed &+ UInt64(task))
                    var random = SplitMix64(state: seed << 16 | UInt64(task))
                    let places = UInt64(file.bytes / work.operationBytes)
                    do throws(IOError) {
                        var before = reactor.now()
                        while before < end {
                            let offset = Int(random.next() % places) * work.operationBytes
                            if work.isRead {
                                _ = try await file.file.read(
                                    into: payload.buffer, 0..<payload.count, at: offset)
                            } else {
                                try await file.file.write(payload, at: offset)
                            }
                            let after = reactor.now()
                            if after > start && after <= end {
                                histogram.record(
                                    nanoseconds: after.nanoseconds - before.nanoseconds)
                            }
                            before = after
                        }
                        return nil
                    } catch { return error }
                }
            }
            var failure: IOError?
            for await error in group { failure = failure ?? error }
            return failure
        }
        if let failure { throw failure }
        let snapshot = histogram.snapshot()
        let seconds = Double(end.nanoseconds - start.nanoseconds) / 1e9
        return (Double(snapshot.count), seconds, snapshot)
    }
}
