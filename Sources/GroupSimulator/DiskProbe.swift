import Bytes
import Glibc
import Model
import Raft
import RaftLog
import Reactor
import Simulator

/// What a member would find in its log if it began again.
struct FoundLog: Sendable {
    var state: HardState
    var first: LogIndex
    var last: LogIndex
}

/// Opens the log on a copy of a machine's disk, by the code that a start runs, while the machine
/// itself goes on and notices nothing.
enum DiskProbe {
    private enum Limits {
        static let steps = 100_000
    }

    /// A kernel that does everything at once.
    private final class Kernel: SimulatedKernel {
        var open: OpenFiles
        var ended: [(number: UInt64, result: Int32)] = []
        var time: UInt64 = 1 << 40
        private let files: SimulatedFiles
        private var generator = SeededGenerator(seed: 1)

        init(_ files: SimulatedFiles) {
            self.files = files
            open = OpenFiles(of: files)
        }

        var now: MonotonicTime { MonotonicTime(nanoseconds: time) }

        func randomNumber() -> UInt64 { generator.next() }

        func begin(_ operation: SimulatedOperation, number: UInt64) {
            let target = open.target(of: operation)
            let mark = target.map { files.mark($0) } ?? 0
            ended.append((number, open.carryOut(operation, on: target, through: mark)))
        }

        func list(_ path: String) -> Result<[String], IOError> { open.list(path) }

        func status(_ path: String) -> Result<FileStatus?, IOError> { .success(open.status(path)) }

        func size(_ descriptor: Int32, path: String) -> Result<Int, IOError> {
            open.size(descriptor, path: path)
        }

        func space(_ path: String) -> Result<FileSystemStatus, IOError> {
            .success(OpenFiles.space(isFull: false))
        }
    }

    private final class Answer<Value> {
        var value: Value?
    }

    /// Runs `body` on a reactor over a disk that does everything at once.
    static func run<Value: Sendable>(
        on files: SimulatedFiles, pool: BufferPool,
        _ body: @escaping @Sendable (Reactor) async -> Value
    ) -> Value {
        let kernel = Kernel(files)
        let reactor = Reactor.simulated(over: kernel, pool: pool)
        let answer = Confined(Answer<Value>())
        Task(executorPreference: reactor) { answer.value.value = await body(reactor) }
        var steps = 0
        while steps < Limits.steps {
            steps += 1
            if reactor.step() { continue }
            let ended = kernel.ended
            kernel.ended = []
            for (number, result) in ended { reactor.complete(number, result) }
            guard ended.isEmpty else { continue }
            guard answer.value.value == nil, let next = reactor.nextTimer else { break }
            kernel.time = max(kernel.time, next.nanoseconds)
        }
        guard let value = answer.value.value else {
            preconditionFailure("what waits for a disk alone comes to an end")
        }
        return value
    }

    /// What the log of `group` in `directory` would be; nil if there is none. The files are written
    /// to, as a start does.
    static func log(
        of group: GroupID, in directory: String, on files: SimulatedFiles,
        options: SharedLog.Options, pool: BufferPool
    ) -> Result<FoundLog?, StoreError> {
        guard files.list(directory)?.contains(where: { $0.hasPrefix("segment-") }) == true else {
            return .success(nil)
        }
        var options = options
        options.proofDelay = nil
        return run(on: files, pool: pool) { [options] reactor in
            do throws(StoreError) {
                let log = try await SharedLog.open(
                    directory: directory, on: reactor, options: options)
                let found = log.group(group).flatMap { group in
                    (try? group.initialState().0).map {
                        FoundLog(state: $0, first: group.firstIndex, last: group.lastIndex)
                    }
                }
                try await log.close()
                return .success(found)
            } catch {
                return .failure(error)
            }
        }
    }
}

extension GroupSimulation {
    /// Has the disk of a machine looked at when the event under way is over, by chance.
    func mayProbe(_ place: Int, _ share: Double) {
        if !probed.contains(place), chance.probes.chance(share) { probed.append(place) }
    }

    /// Looks what the machines that were asked for would find if they lost their power now, or if
    /// their processes were killed.
    func probe() {
        for place in probed {
            let isKilled = chance.probes.chance(0.3)
            probe(place, isKilled: isKilled)
        }
        probed.removeAll(keepingCapacity: true)
    }

    func probe(_ place: Int, isKilled: Bool) {
        guard let peer = machines[place].peer else { return }
        statistics.probes += 1
        let disk = SimulatedMachine(copying: machines[place].disk)
        if !isKilled { disk.cutPower(&chance.probes) }
        let result = DiskProbe.log(
            of: Self.group, in: Directory.log, on: disk.files, options: logOptions, pool: pool)
        let how = isKilled ? "killed now" : "without power now"
        switch result {
        case .failure(let error):
            checker.fail(.recovery, "member \(peer), \(how), would not start again: \(error)")
        case .success(let found):
            let tables = disk.newestTables.index
            let snapshot = found.flatMap { Self.snapshot(before: $0.first, on: disk.files) }
            checker.wouldFind(
                peer, how, found, tables: tables, snapshot: snapshot)
        }
    }

    /// The index of the snapshot that has arrived and fills the gap before entry `first`; nil if
    /// none is there, or it cannot be read.
    private static func snapshot(before first: LogIndex, on files: SimulatedFiles) -> LogIndex? {
        guard first > 1 else { return nil }
        let header = SnapshotHeader(group: group, index: first - 1, term: 0, size: 0, checksum: 0)
        let path = SnapshotFile.path(header, in: Directory.snapshots)
        return files.find(path).flatMap {
            SimulatedMachine.TableImage(decoding: $0.content)?.index
        }
    }

    /// Where a member's files are on its machine.
    enum Directory {
        static let member = "/data"
        static let log = member + "/log"
        static let snapshots = member + "/snapshots"
    }

    /// How logs are cut.
    var logOptions: SharedLog.Options {
        SharedLog.Options(
            segmentSize: scenario.segmentBytes, cacheBytes: scenario.cacheBytes,
            slackSegments: scenario.slackSegments)
    }
}
