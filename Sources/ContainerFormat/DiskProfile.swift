/// The file `disk` of a volume: what `apus disk tune` measured, and what the datanode does with it.
public struct DiskProfile: Hashable, Sendable {
    /// What one I/O class may have; see `DiskSettings.Share`.
    public struct Share: Hashable, Sendable {
        public var depth: Int
        public var weight: Int
        /// At most `depth` operations in flight, and `weight` against those of the other classes.
        public init(depth: Int, weight: Int) {
            self.depth = depth
            self.weight = weight
        }
    }

    /// Milliseconds since 1970.
    public var measuredAt: Int64
    /// Bytes per second with 1 MiB, and operations per second with 4 KiB.
    public var readBandwidth, writeBandwidth, readIOPS, writeIOPS: Int
    /// Medians of an `fdatasync` after 4 KiB, over written extents and over new ones.
    public var overwriteSyncMicroseconds, newExtentSyncMicroseconds: Int

    /// Operations in flight of all classes, and bytes.
    public var depth: Int
    public var bytesInFlight: Int
    /// What an operation costs beside its bytes, in bytes.
    public var operationBytes: Int
    public var client, repair, scrub, background: Share
    /// How long the committer waits for company before a sync, in microseconds; 0: not at all.
    public var syncDelayMicroseconds: Int

    /// The version written, and the only one read.
    public static let version: UInt32 = 1
    /// The longest file that is looked at.
    public static let largestSize = 4096
    /// The file's name in the volume's directory.
    public static let fileName = "disk"
    private static let kind = "apus-disk"
    private static let what = "volume's disk profile"

    /// A profile of a measurement with the settings made from it.
    public init(
        measuredAt: Int64, readBandwidth: Int, writeBandwidth: Int, readIOPS: Int, writeIOPS: Int,
        overwriteSyncMicroseconds: Int, newExtentSyncMicroseconds: Int, depth: Int,
        bytesInFlight: Int, operationBytes: Int, client: Share, repair: Share, scrub: Share,
        background: Share, syncDelayMicroseconds: Int
    ) {
        self.measuredAt = measuredAt
        self.readBandwidth = readBandwidth
        self.writeBandwidth = writeBandwidth
        self.readIOPS = readIOPS
        self.writeIOPS = writeIOPS
        self.overwriteSyncMicroseconds = overwriteSyncMicroseconds
        self.newExtentSyncMicroseconds = newExtentSyncMicroseconds
        self.depth = depth
        self.bytesInFlight = bytesInFlight
        self.operationBytes = operationBytes
        self.client = client
        self.repair = repair
        self.scrub = scrub
        self.background = background
        self.syncDelayMicroseconds = syncDelayMicroseconds
    }

    /// The file's bytes.
    public func encoded() -> [UInt8] {
        func line(_ name: String, _ share: Share) -> String {
            "\(name) depth \(share.depth) weight \(share.weight)"
        }
        return SealedText.encoded(
            kind: Self.kind, version: Self.version,
            lines: [
                "measured-at-ms \(measuredAt)",
                "read-bytes-per-second \(readBandwidth)",
                "write-bytes-per-second \(writeBandwidth)",
                "read-operations-per-second \(readIOPS)",
                "write-operations-per-second \(writeIOPS)",
                "overwrite-sync-us \(overwriteSyncMicroseconds)",
                "new-extent-sync-us \(newExtentSyncMicroseconds)",
                "depth \(depth)", "bytes-in-flight \(bytesInFlight)",
                "operation-bytes \(operationBytes)",
                line("client", client), line("repair", repair), line("scrub", scrub),
                line("background", background),
                "sync-delay-us \(syncDelayMicroseconds)",
            ])
    }

    /// Parses the whole file. Throws `notA`, `unknownVersion`, `checksum`, or `invalid` for a field
    /// that is missing or out of its range.
    public init(parsing bytes: [UInt8]) throws(FormatError) {
        let lines = try SealedText.lines(
            of: bytes, kind: Self.kind, version: Self.version, called: Self.what)
        func words(_ name: String) throws(FormatError) -> [String] {
            guard let line = lines.first(where: { $0.first == name }) else {
                throw .invalid("the \(Self.what) has no line '\(name)'")
            }
            return line
        }
        func number(_ text: String?, _ name: String, _ range: ClosedRange<Int>) throws(FormatError)
            -> Int
        {
            guard let text, let value = Int(text), range.contains(value) else {
                throw .invalid("\(name) of the \(Self.what) is '\(text ?? "")', not in \(range)")
            }
            return value
        }
        func field(_ name: String, _ range: ClosedRange<Int> = 0...Int.max) throws(FormatError)
            -> Int
        {
            let words = try words(name)
            return try number(words.count == 2 ? words[1] : nil, name, range)
        }
        func share(_ name: String) throws(FormatError) -> Share {
            let words = try words(name)
            guard words.count == 5, words[1] == "depth", words[3] == "weight" else {
                throw .invalid("\(name) of the \(Self.what) is not 'depth N weight N'")
            }
            return Share(
                depth: try number(words[2], "\(name)'s depth", 1...4096),
                weight: try number(words[4], "\(name)'s weight", 1...1000))
        }
        measuredAt = Int64(try field("measured-at-ms"))
        readBandwidth = try field("read-bytes-per-second")
        writeBandwidth = try field("write-bytes-per-second")
        readIOPS = try field("read-operations-per-second")
        writeIOPS = try field("write-operations-per-second")
        overwriteSyncMicroseconds = try field("overwrite-sync-us")
        newExtentSyncMicroseconds = try field("new-extent-sync-us")
        depth = try field("depth", 1...4096)
        bytesInFlight = try field("bytes-in-flight", 4096...1 << 40)
        operationBytes = try field("operation-bytes", 0...1 << 30)
        client = try share("client")
        repair = try share("repair")
        scrub = try share("scrub")
        background = try share("background")
        syncDelayMicroseconds = try field("sync-delay-us", 0...100_000)
    }
}
