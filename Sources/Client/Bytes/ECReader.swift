import Bytes
import ErasureCode
import Model
import Reactor

/// Reads ranges of a key laid out in erasure-coded block groups, some stripes ahead. While it is
/// there its blocks stay, whatever becomes of the key.
public struct ECReader: ObjectReader {
    enum Limits {
        /// User bytes read ahead of the one who takes them, or the reader's share of the process's
        /// `TransferWindow`; one stripe goes regardless.
        static let readAhead = 12 << 20
        /// Bytes of the first piece of a long read, which is fetched alone: the first byte waits
        /// neither for a stripe nor for a cell.
        static let firstPiece = 128 << 10
    }

    private let groups: [(start: Int, reader: GroupReader)]
    /// The bytes of the key that lie in `groups`.
    private let bytes: Range<Int>
    private let hold: ReaderHolds.Reader?
    private let reactor: Reactor
    private let window: TransferWindow

    /// Throws `unsupported` if a group is not erasure-coded.
    init(
        _ info: KeyInfo, codec: (ErasureCoding) -> Codec, client: DatanodeClient,
        holds: ReaderHolds, on reactor: Reactor, locate: @escaping GroupReader.Locator,
        reportCorrupt: @escaping @Sendable (BlockID, Int, DatanodeAddress, String) -> Void
    ) throws(StoreError) {
        var start = info.groupsOffset
        groups = try info.blockGroups.map { (group) throws(StoreError) in
            defer { start += group.keyLength }
            let coding = try group.replication.erasureCoding()
            let reader = GroupReader(
                group, codec: codec(coding), client: client, on: reactor,
                locate: locate, reportCorrupt: reportCorrupt)
            return (start, reader)
        }
        bytes = info.groupsOffset..<start
        hold = holds.open(info.blockGroups, on: reactor)
        self.reactor = reactor
        window = client.window
    }

    /// One stripe's worth of work.
    private struct Step {
        var reader: GroupReader
        var parts: [StripeGeometry.CellRange]
        var byteCount: Int { parts.reduce(0) { $0 + $1.range.count } }
    }

    private func steps(_ range: Range<Int>) -> [Step] {
        var steps: [Step] = []
        // The first group that the range touches, by bisection: keys may have thousands.
        var low = 0
        var high = groups.count
        while low < high {
            let middle = (low + high) / 2
            if groups[middle].start + groups[middle].reader.group.keyLength <= range.lowerBound {
                low = middle + 1
            } else {
                high = middle
            }
        }
        for (start, reader) in groups[low...] where start < range.upperBound {
            let end = start + reader.group.keyLength
            // From places in the key to those in the group, of which the key may have a part.
            let shift = (reader.group.range?.lowerBound ?? 0) - start
            let first = max(range.lowerBound, start) + shift
            let last = min(range.upperBound, end) + shift
            guard first < last else { continue }
            for parts in reader.stripes(in: first..<last) {
                // The first byte should not wait for a whole stripe.
                if steps.isEmpty {
                    steps = Self.firstSteps(reader, parts)
                } else {
                    steps.append(Step(reader: reader, parts: parts))
                }
            }
            if end >= range.upperBound { break }
        }
        return steps
    }

    /// The first stripe's work, its first piece apart.
    private static func firstSteps(
        _ reader: GroupReader, _ parts: [StripeGeometry.CellRange]
    ) -> [Step] {
        guard parts[0].range.count > 2 * Limits.firstPiece else {
            let first = Step(reader: reader, parts: [parts[0]])
            return parts.count == 1
                ? [first] : [first, Step(reader: reader, parts: Array(parts[1...]))]
        }
        var first = parts[0]
        let unit = ReplicationConfig.checksumUnit
        // Up to the end of a unit, so that no unit is read twice.
        let cut = (first.range.lowerBound + Limits.firstPiece) / unit * unit
        var rest = parts
        rest[0].range = cut..<first.range.upperBound
        rest[0].replicaOffset += cut - first.range.lowerBound
        first.range = first.range.lowerBound..<cut
        return [Step(reader: reader, parts: [first]), Step(reader: reader, parts: rest)]
    }

    public func read(
        _ range: Range<Int>, _ body: @Sendable (Payload) async throws -> Void
    ) async throws {
        guard !range.isEmpty else { return }
        guard bytes.lowerBound <= range.lowerBound, range.upperBound <= bytes.upperBound else {
            throw StoreError(
                .internal,
                "bytes \(range) are read of a key that was looked up for \(bytes) of them")
        }
        let steps = steps(range)
        if steps.count == 1 {
            for payload in try await steps[0].reader.read(steps[0].parts) {
                try await body(payload)
            }
            return
        }
        window.enter()
        var running: [Task<Result<[Payload], StoreError>, Never>] = []
        defer {
            window.leave()
            for task in running { task.cancel() }
        }
        var next = 0
        var ahead = 0
        for (index, step) in steps.enumerated() {
            // The first piece goes alone, if more than a stripe follows it.
            while next < steps.count,
                running.isEmpty
                    || (ahead < min(Limits.readAhead, window.share)
                        && (index > 0 || steps.count < 4))
            {
                running.append(start(steps[next]))
                ahead += steps[next].byteCount
                next += 1
            }
            let task = running[0]
            let result = await withTaskCancellationHandler {
                await task.value
            } onCancel: {
                task.cancel()
            }
            running.removeFirst()
            ahead -= step.byteCount
            for payload in try result.get() { try await body(payload) }
        }
    }

    private func start(_ step: Step) -> Task<Result<[Payload], StoreError>, Never> {
        Task(executorPreference: reactor) {
            do throws(StoreError) {
                return .success(try await step.reader.read(step.parts))
            } catch {
                return .failure(error)
            }
        }
    }
}
