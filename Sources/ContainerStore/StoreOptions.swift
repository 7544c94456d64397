import Model
import Reactor

extension ContainerStore {
    /// When an acknowledged write is safe.
    public enum Durability: String, Hashable, Sendable, CaseIterable {
        /// On stable media before it is acknowledged.
        case sync
        /// In the kernel; a power cut may lose what was written last. A crash of the process
        /// loses nothing.
        case writeback
    }

    /// Settings of a store. The defaults are for real disks.
    public struct Options: Sendable {
        public var durability: Durability
        /// Bytes of a data file that are allocated at a time, ahead of use. A multiple of 4096.
        public var extentBytes: Int
        /// Bytes of a journal that are written with zeros at a time, ahead of use. A multiple of
        /// 4096.
        public var journalSegmentBytes: Int
        /// Bytes of each file system that are left free: below, a volume counts as full. They
        /// are what containers of a full disk are closed with.
        public var reservedBytes: Int
        /// The most bytes that the store's files may take of each volume; nil: no limit but the
        /// disk's.
        public var volumeLimitBytes: Int?
        /// Bytes of index pages of closed containers kept in memory, in all.
        public var indexCacheBytes: Int
        /// Data files of closed containers kept open, in all.
        public var openFiles: Int
        /// How long the space of deleted blocks is gathered before it is given back.
        public var reclaimDelay = Duration.seconds(30)
        /// Bytes of deleted blocks, per volume, beyond which it is given back at once. With little
        /// space left it is fewer.
        public var reclaimBytes = 2 << 30
        /// The longest journal that is read when a store is opened.
        public var journalReadBytes = 1 << 30
        /// What an open container may hold before it asks to be closed; at twice as much it takes
        /// no more and closes itself. Blocks are counted, since each takes memory, however small.
        public var blocksToClose = 1 << 18
        public var journalBytesToClose = 256 << 20
        /// Bytes of the data file that are no block's: padding, and what was deleted.
        public var wasteToClose = 4 << 30
        /// How long, in writeback, what was written may be without proof that it is durable, which
        /// only a sync gives: without it damage cannot be told from a torn write.
        public var proofInterval = Duration.seconds(5)
        /// A volume with operations under way of which none ends for so long is taken for hung.
        public var hangDelay = Duration.seconds(10)
        /// Between looks whether it is.
        public var watchInterval = Duration.seconds(1)
        /// How long a round of the committer is repeated that fails for want of descriptors, memory
        /// or a place in the disk's queue.
        public var roundPatience = Duration.seconds(5)
        /// Volumes that are not to be touched, by path, each with the reason: they are taken out
        /// before anything is read or made there.
        public var refusedVolumes: [String: String] = [:]
        /// The time of day, which tells how long something has been kept.
        public var clock: @Sendable () -> Timestamp = {
            let unix = MonotonicTime.now().nanoseconds &+ MonotonicTime.unixOffset()
            return Timestamp(milliseconds: Int64(unix / 1_000_000))
        }
        /// Refuse a volume that another store has open. Off only where a test plays the death of
        /// a process within one.
        public var locksVolumes: Bool

        public init(
            durability: Durability = .sync, extentBytes: Int = 16 << 20,
            journalSegmentBytes: Int = 256 << 10, reservedBytes: Int = 256 << 20,
            volumeLimitBytes: Int? = nil, indexCacheBytes: Int = 128 << 20, openFiles: Int = 512,
            locksVolumes: Bool = true
        ) {
            precondition(
                extentBytes > 0 && extentBytes % 4096 == 0 && journalSegmentBytes > 0
                    && journalSegmentBytes % 4096 == 0,
                "extents and journal segments are multiples of 4096 bytes")
            self.durability = durability
            self.extentBytes = extentBytes
            self.journalSegmentBytes = journalSegmentBytes
            self.reservedBytes = reservedBytes
            self.volumeLimitBytes = volumeLimitBytes
            self.indexCacheBytes = indexCacheBytes
            self.openFiles = openFiles
            self.locksVolumes = locksVolumes
        }
    }

    public enum Limits {
        /// The longest range of one read.
        public static let readBytes = 32 << 20
        /// The longest data file.
        public static let dataFileBytes = 1 << 40
        /// Containers opened at a time per volume when a store is opened.
        public static let openingAtOnce = 16
        /// Bytes of an index written at a time.
        public static let indexWriteBytes = 4 << 20
        /// A payload up to this size is copied to pad it to 4 KiB; of a longer one, its end.
        public static let paddedCopyBytes = 64 << 10
        /// How long a volume that another store has open is waited for. A killed one may hold it for
        /// seconds, where its disk is slow or the machine busy.
        public static let lockPatience = Duration.seconds(5)
        /// How long nothing must have been committed before marks are written.
        public static let quietBeforeMark = Duration.milliseconds(200)
        /// Between repetitions of such a round.
        public static let roundPause = Duration.milliseconds(20)
        /// Bytes left of a journal's zeros at which more are written.
        public static let journalAheadBytes = 32 << 10
    }
}
