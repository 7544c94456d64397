import Telemetry

/// What a quick look at a disk found. Latencies in microseconds.
public struct DiskHealth: Hashable, Sendable, Codable {
    /// What a disk is compared with its siblings by.
    public enum Measure: String, Hashable, Sendable, Codable, CaseIterable {
        case readP50 = "read p50"
        case readP99 = "read p99"
        case syncP50 = "sync p50"
        case syncP99 = "sync p99"
    }

    /// How far a disk may be from its siblings.
    public struct Thresholds: Hashable, Sendable, Codable {
        /// A median of so many times that of the siblings' median, and by so many microseconds.
        public var medianFactor = 2.0
        public var medianExcessMicroseconds = 200.0
        /// The same for p99.
        public var tailFactor = 3.0
        public var tailExcessMicroseconds = 5000.0

        /// Twice for medians, three times for tails.
        public init() {}

        /// What a disk with `value` is an outlier by, where its siblings have `median`.
        func isExceeded(_ measure: Measure, _ value: Double, median: Double) -> Bool {
            switch measure {
            case .readP50, .syncP50:
                value > medianFactor * median && value > median + medianExcessMicroseconds
            case .readP99, .syncP99:
                value > tailFactor * median && value > median + tailExcessMicroseconds
            }
        }

        /// For a person.
        public var text: String {
            "an outlier has a p50 of more than \(Figures.decimal(medianFactor, digits: 1)) times, "
                + "and \(Figures.time(medianExcessMicroseconds)) above, the median of its siblings, "
                + "or a p99 of more than \(Figures.decimal(tailFactor, digits: 1)) times and "
                + "\(Figures.time(tailExcessMicroseconds)) above"
        }
    }

    /// What became of the comparison.
    public enum Verdict: String, Hashable, Sendable, Codable {
        case good
        case outlier
        /// An operation failed.
        case failing
    }

    public var path: String
    public var reads: Int
    public var syncs: Int
    public var readP50, readP99, syncP50, syncP99: Double
    /// What failed.
    public var errors: [String]
    public var verdict = Verdict.good
    /// Why it is no good one.
    public var reasons: [String] = []

    /// A disk without siblings yet, from what was measured of it.
    public init(
        path: String, reads: LatencySnapshot, syncs: LatencySnapshot, errors: [String]
    ) {
        self.path = path
        self.reads = Int(reads.count)
        self.syncs = Int(syncs.count)
        readP50 = Double(reads.p50) / 1000
        readP99 = Double(reads.p99) / 1000
        syncP50 = Double(syncs.p50) / 1000
        syncP99 = Double(syncs.p99) / 1000
        self.errors = errors
    }

    /// The value of a measure, in microseconds.
    public subscript(_ measure: Measure) -> Double {
        switch measure {
        case .readP50: readP50
        case .readP99: readP99
        case .syncP50: syncP50
        case .syncP99: syncP99
        }
    }

    /// Compares each disk with the median of the others; disks that fail are no siblings to
    /// compare with. One alone is only failing or not.
    public static func compared(_ disks: [DiskHealth], by thresholds: Thresholds) -> [DiskHealth] {
        disks.enumerated().map { number, disk in
            var disk = disk
            guard disk.errors.isEmpty else {
                disk.verdict = .failing
                disk.reasons = disk.errors
                return disk
            }
            let siblings = disks.enumerated().filter { $0.offset != number }.map(\.element)
                .filter(\.errors.isEmpty)
            guard !siblings.isEmpty else { return disk }
            for measure in Measure.allCases {
                let median = median(of: siblings.map { $0[measure] })
                guard thresholds.isExceeded(measure, disk[measure], median: median) else {
                    continue
                }
                disk.verdict = .outlier
                disk.reasons.append(
                    "\(measure.rawValue) \(Figures.time(disk[measure])), siblings "
                        + Figures.time(median))
            }
            return disk
        }
    }

    static func median(of values: [Double]) -> Double {
        precondition(!values.isEmpty, "a median is one of something")
        let sorted = values.sorted()
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    /// A table for a person.
    public static func table(_ disks: [DiskHealth]) -> String {
        let width = max(6, disks.map(\.path.count).max() ?? 0) + 2
        func row(_ path: String, _ cells: [String], _ end: String) -> String {
            Figures.left(path, width) + cells.map { Figures.right($0, 10) }.joined() + "  " + end
        }
        let header = row("VOLUME", Measure.allCases.map { $0.rawValue.uppercased() }, "VERDICT")
        let rows = disks.map { disk in
            row(
                disk.path,
                Measure.allCases.map { measure in
                    let isRead = measure == .readP50 || measure == .readP99
                    return (isRead ? disk.reads : disk.syncs) == 0
                        ? "-" : Figures.time(disk[measure])
                },
                disk.verdict.rawValue
                    + (disk.reasons.isEmpty ? "" : ": " + disk.reasons.joined(separator: "; ")))
        }
        return ([header] + rows).joined(separator: "\n")
    }
}
