import Bytes
import Model
import Reactor
import Telemetry

/// A quick look at disks that may be at work: small direct reads of what is stored, small writes
/// with a sync to a file without a name, at a low rate, one disk after the other in turn, so that
/// all are seen under the same conditions.
public struct DiskChecker: Sendable {
    /// How a look is taken.
    public struct Options: Sendable {
        /// Rounds; each reads and, every fourth time, writes and syncs 4 KiB on every disk.
        public var rounds = 200
        /// Between two operations on one disk, at the least.
        public var pause = Duration.milliseconds(20)

        /// 200 rounds, 20 ms apart: 4 s and a little.
        public init() {}
    }

    /// Bytes of the file that is written, and read where nothing is stored.
    static let scratchBytes = 4 << 20
    /// Data files that are read from, of one disk.
    static let filesPerDisk = 64
    /// Errors after which a disk is left alone.
    static let errorsPerDisk = 5

    private let reactor: Reactor
    private let options: Options
    private let progress: @Sendable (Double) -> Void

    /// A checker on `reactor` that tells `progress` how far it is, 0…1.
    public init(
        on reactor: Reactor, options: Options = Options(),
        progress: @escaping @Sendable (Double) -> Void = { _ in }
    ) {
        self.reactor = reactor
        self.options = options
        self.progress = progress
    }

    /// One disk that is looked at.
    private final class Subject {
        let path: MeasuredPath
        let reads = LatencyHistogram()
        let syncs = LatencyHistogram()
        var errors: [String] = []
        var files: [(file: File, blocks: Int)] = []
        var scratch: File?

        init(_ path: MeasuredPath) { self.path = path }
    }

    /// Looks at `paths`, which are distinct, and compares them. What fails on a disk is told with
    /// the disk, not thrown.
    nonisolated(nonsending)
        public func check(
            _ paths: [MeasuredPath], thresholds: DiskHealth.Thresholds
        ) async -> [DiskHealth]
    {
        let subjects = paths.map(Subject.init)
        for subject in subjects { await open(subject) }
        let buffer = reactor.pool.allocate(4096)
        var random = SplitMix64(state: reactor.now().nanoseconds)
        for round in 0..<options.rounds {
            let began = reactor.now()
            for subject in subjects where subject.errors.count < Self.errorsPerDisk {
                await look(subject, buffer, round, &random)
            }
            progress(Double(round + 1) / Double(options.rounds))
            do throws(CancellationError) {
                try await reactor.sleep(until: began.advanced(by: options.pause))
            } catch { break }
        }
        let found = subjects.map { subject in
            DiskHealth(
                path: subject.path.path, reads: subject.reads.snapshot(),
                syncs: subject.syncs.snapshot(), errors: subject.errors)
        }
        return DiskHealth.compared(found, by: thresholds)
    }

    nonisolated(nonsending)
        private func open(_ subject: Subject) async
    {
        let path = subject.path.path
        do throws(IOError) {
            let scratch = try await File.open(
                path, [.read, .write, .unnamed, .direct], on: reactor)
            let bytes = (0..<Self.scratchBytes).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            try await scratch.write(Payload(copying: bytes, pool: reactor.pool), at: 0)
            try await scratch.synchronize()
            subject.scratch = scratch
            if subject.path.isVolume {
                let directory = path + "/containers"
                let names = try await reactor.list(directory).filter { $0.hasSuffix(".data") }
                for name in names.shuffled().prefix(Self.filesPerDisk) {
                    let file = try await File.open(
                        "\(directory)/\(name)", [.read, .direct], on: reactor)
                    let blocks = try await file.size() / 4096
                    if blocks > 0 { subject.files.append((file, blocks)) }
                }
            }
            // A new volume: what was just written is all there is to read.
            if subject.files.isEmpty { subject.files = [(scratch, Self.scratchBytes / 4096)] }
        } catch { subject.errors.append(error.description) }
    }

    nonisolated(nonsending)
        private func look(
            _ subject: Subject, _ buffer: AlignedBuffer, _ round: Int, _ random: inout SplitMix64
        ) async
    {
        guard let scratch = subject.scratch, let (file, blocks) = subject.files.randomElement()
        else { return }
        do throws(IOError) {
            let began = reactor.now()
            _ = try await file.read(
                into: buffer, 0..<4096, at: Int(random.next() % UInt64(blocks)) * 4096)
            let read = reactor.now()
            subject.reads.record(nanoseconds: read.nanoseconds - began.nanoseconds)
            guard round % 4 == 0 else { return }
            let place = Int(random.next() % UInt64(Self.scratchBytes / 4096)) * 4096
            try await scratch.write(Payload(buffer, 0..<4096), at: place)
            let written = reactor.now()
            try await scratch.synchronize()
            subject.syncs.record(
                nanoseconds: reactor.now().nanoseconds - written.nanoseconds)
        } catch { subject.errors.append(error.description) }
    }
}
