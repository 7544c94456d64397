import Telemetry

/// What is done to a disk while it is measured.
public enum DiskWork: String, Hashable, Sendable, Codable, CaseIterable {
    case randomRead4K = "read-4k"
    case randomWrite4K = "write-4k"
    case randomRead1M = "read-1m"
    case randomWrite1M = "write-1m"

    /// Bytes of one operation.
    public var operationBytes: Int {
        switch self {
        case .randomRead4K, .randomWrite4K: 4096
        case .randomRead1M, .randomWrite1M: 1 << 20
        }
    }
    public var isRead: Bool { self == .randomRead4K || self == .randomRead1M }

    /// What it is called in a heading.
    public var title: String {
        switch self {
        case .randomRead4K: "reads of 4 KiB"
        case .randomWrite4K: "writes of 4 KiB"
        case .randomRead1M: "reads of 1 MiB"
        case .randomWrite1M: "writes of 1 MiB"
        }
    }
}

/// Throughput and latency of a disk at one depth.
public struct DiskPoint: Hashable, Sendable, Codable {
    /// Operations kept in flight.
    public var depth: Int
    /// Operations per second.
    public var operationsPerSecond: Double
    /// Latencies in microseconds.
    public var p50Microseconds: Double
    public var p99Microseconds: Double

    /// A point of a curve; see the fields.
    public init(
        depth: Int, operationsPerSecond: Double, p50Microseconds: Double, p99Microseconds: Double
    ) {
        self.depth = depth
        self.operationsPerSecond = operationsPerSecond
        self.p50Microseconds = p50Microseconds
        self.p99Microseconds = p99Microseconds
    }
}

/// Throughput and latency of a disk against depth, for one kind of work.
public struct DiskCurve: Hashable, Sendable, Codable {
    public var work: DiskWork
    /// By growing depth. Not empty.
    public var points: [DiskPoint]

    /// A curve through `points`, by growing depth.
    public init(work: DiskWork, points: [DiskPoint]) {
        precondition(!points.isEmpty, "a curve has a point")
        self.work = work
        self.points = points
    }

    /// The most operations per second, at whatever depth.
    public var peak: Double { points.map(\.operationsPerSecond).max() ?? 0 }

    /// The most bytes per second.
    public var peakBytes: Double { peak * Double(work.operationBytes) }

    /// The knee: the point of the smallest depth with 90 % of the peak. Beyond it depth buys
    /// little but latency.
    public var knee: DiskPoint { first(with: 0.9) }

    /// The point of the smallest depth with 97 % of the peak: as good as all that the disk gives.
    public var full: DiskPoint { first(with: 0.97) }

    private func first(with part: Double) -> DiskPoint {
        points.first { $0.operationsPerSecond >= part * peak } ?? points[points.count - 1]
    }
}

/// What making writes durable costs. Medians, in microseconds.
public struct SyncCosts: Hashable, Sendable, Codable {
    /// 4 KiB over extents that were written before, and an `fdatasync`: write and sync together,
    /// and the sync alone.
    public var overwriteMicroseconds: Double
    public var overwriteSyncMicroseconds: Double
    public var overwriteSyncP99Microseconds: Double
    /// The same past the end of the file, where the file system must commit the new extent.
    public var newExtentMicroseconds: Double
    public var newExtentSyncMicroseconds: Double
    public var newExtentSyncP99Microseconds: Double
    /// Writes over written extents that shared one sync in the last measurement, and the cost of
    /// all of them with it.
    public var batch: Int
    public var batchMicroseconds: Double

    /// How many times as many durable writes a second a batch gives as one at a time.
    public var batchGain: Double {
        batchMicroseconds > 0 ? overwriteMicroseconds * Double(batch) / batchMicroseconds : 0
    }

    /// Costs as measured; see the fields.
    public init(
        overwriteMicroseconds: Double, overwriteSyncMicroseconds: Double,
        overwriteSyncP99Microseconds: Double, newExtentMicroseconds: Double,
        newExtentSyncMicroseconds: Double, newExtentSyncP99Microseconds: Double, batch: Int,
        batchMicroseconds: Double
    ) {
        self.overwriteMicroseconds = overwriteMicroseconds
        self.overwriteSyncMicroseconds = overwriteSyncMicroseconds
        self.overwriteSyncP99Microseconds = overwriteSyncP99Microseconds
        self.newExtentMicroseconds = newExtentMicroseconds
        self.newExtentSyncMicroseconds = newExtentSyncMicroseconds
        self.newExtentSyncP99Microseconds = newExtentSyncP99Microseconds
        self.batch = batch
        self.batchMicroseconds = batchMicroseconds
    }
}

/// All that was measured of a disk.
public struct DiskReport: Hashable, Sendable, Codable {
    /// The directory that was measured.
    public var path: String
    /// Bytes of the measuring file.
    public var fileBytes: Int
    /// Whether the page cache was bypassed; without that the figures are the cache's.
    public var isDirect: Bool
    /// How long it took, in seconds.
    public var seconds: Double
    /// By what part of the best pass the worst fell behind, the median of all points, 0…1. On a
    /// disk of one's own a few hundredths.
    public var spread: Double
    /// One for each `DiskWork`, in its order.
    public var curves: [DiskCurve]
    public var sync: SyncCosts

    /// A report; see the fields.
    public init(
        path: String, fileBytes: Int, isDirect: Bool, seconds: Double, spread: Double,
        curves: [DiskCurve], sync: SyncCosts
    ) {
        self.path = path
        self.fileBytes = fileBytes
        self.isDirect = isDirect
        self.seconds = seconds
        self.spread = spread
        self.curves = curves
        self.sync = sync
    }

    /// The curve of `work`.
    public subscript(_ work: DiskWork) -> DiskCurve {
        guard let curve = curves.first(where: { $0.work == work }) else {
            preconditionFailure("a report has a curve for \(work)")
        }
        return curve
    }
}
