/// Who an operation on a disk is for.
public enum IOClass: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// Somebody waits for it: reads and appends of clients, and what they depend on.
    case client
    /// Rebuilds lost replicas.
    case repair
    /// Reads what is stored to find damage before somebody needs it.
    case scrub
    /// Everything else that can wait: compaction, closing, deletion.
    case background

    public var description: String {
        switch self {
        case .client: "client"
        case .repair: "repair"
        case .scrub: "scrub"
        case .background: "background"
        }
    }
}

/// How much of a disk may be in flight, and how the classes share it. The defaults are for an
/// unmeasured solid-state disk; `apus disk tune` finds those of a given one.
///
/// Up to the knee of a disk's curve throughput grows with depth, so a share of the depth is a
/// share of the disk.
public struct DiskSettings: Hashable, Sendable {
    /// What one class may have.
    public struct Share: Hashable, Sendable {
        /// The most operations in flight, also while nobody else works.
        public var depth: Int
        /// The class's part of the disk while others wait, against the weights of the others.
        public var weight: Int

        /// A share of at most `depth` operations in flight, 1…`Disk.Limits.depth`, and of
        /// `weight`, 1…`Disk.Limits.weight`.
        public init(depth: Int, weight: Int) {
            precondition(
                (1...Disk.Limits.depth).contains(depth)
                    && (1...Disk.Limits.weight).contains(weight),
                "a class has a depth and a weight within Disk.Limits, not \(depth) and \(weight)")
            self.depth = depth
            self.weight = weight
        }
    }

    /// The most operations in flight, of all classes together.
    public var depth: Int
    /// No operation is started while so many bytes are in flight.
    public var bytesInFlight: Int
    /// What an operation costs beside its bytes, in bytes: bandwidth divided by the rate of small
    /// operations.
    public var operationBytes: Int
    /// What the disk moves, in bytes per second: a share of it is the most that a class other than
    /// `client` takes while clients work.
    public var bytesPerSecond: Int
    public var client: Share
    public var repair: Share
    public var scrub: Share
    public var background: Share

    /// Settings for a disk that takes `depth` operations and `bytesInFlight` bytes at once. Every
    /// class may use all of it while nobody else works.
    public init(
        depth: Int = 128, bytesInFlight: Int = 64 << 20, operationBytes: Int = 16 << 10,
        bytesPerSecond: Int = 1 << 30
    ) {
        precondition(
            bytesInFlight > 0 && operationBytes >= 0 && bytesPerSecond > 0,
            "a disk takes at least one byte in flight, and moves one a second")
        self.bytesPerSecond = bytesPerSecond
        self.depth = depth
        self.bytesInFlight = bytesInFlight
        self.operationBytes = operationBytes
        client = Share(depth: depth, weight: 70)
        repair = Share(depth: depth, weight: 15)
        scrub = Share(depth: depth, weight: 7)
        background = Share(depth: depth, weight: 8)
    }

    /// The share of a class.
    public subscript(_ ioClass: IOClass) -> Share {
        get {
            switch ioClass {
            case .client: client
            case .repair: repair
            case .scrub: scrub
            case .background: background
            }
        }
        set {
            switch ioClass {
            case .client: client = newValue
            case .repair: repair = newValue
            case .scrub: scrub = newValue
            case .background: background = newValue
            }
        }
    }

    var totalWeight: Int { client.weight + repair.weight + scrub.weight + background.weight }
}
