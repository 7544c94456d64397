import ContainerFormat

extension DiskReport {
    /// Passes that differ by more were disturbed.
    static let quietSpread = 0.15

    /// The report for a terminal: a curve for each kind of work, the costs of syncs.
    public var text: String {
        var lines = [
            "\(path): \(fileBytes >> 20) MiB, "
                + (isDirect ? "past the page cache" : "THROUGH THE PAGE CACHE (no O_DIRECT here)")
                + ", \(Int(seconds.rounded())) s"
        ]
        if spread > Self.quietSpread {
            lines.append(
                "NOTE: passes differ by \(Int((spread * 100).rounded())) % in the median: something "
                    + "else used the disk or the processors; measure again when it is quiet")
        }
        for curve in curves { lines += ["", curve.text] }
        lines += ["", sync.text]
        return lines.joined(separator: "\n")
    }
}

extension DiskCurve {
    private static let barWidth = 32

    /// A table with a bar for each depth and the knee marked.
    var text: String {
        let header =
            Figures.left(work.title, 17) + Figures.right("throughput", 12) + "  "
            + Figures.left("", Self.barWidth) + Figures.right("p50", 10) + Figures.right("p99", 10)
        let lines = points.map { point in
            let part = peak > 0 ? point.operationsPerSecond / peak : 0
            return Figures.right("depth \(point.depth)", 17) + Figures.right(throughput(point), 12)
                + "  " + Figures.left(Self.bar(part), Self.barWidth)
                + Figures.right(Figures.time(point.p50Microseconds), 10)
                + Figures.right(Figures.time(point.p99Microseconds), 10)
                + (point.depth == knee.depth ? "  <- knee" : "")
        }
        return ([header] + lines).joined(separator: "\n")
    }

    /// A bar of eighths of a column.
    static func bar(_ part: Double) -> String {
        let eighths = Int((min(max(part, 0), 1) * Double(barWidth * 8)).rounded())
        let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8]
        return String(repeating: "█", count: eighths / 8) + rest
    }
}

extension SyncCosts {
    /// A table.
    var text: String {
        func line(_ name: String, _ whole: Double, _ sync: Double, _ p99: Double) -> String {
            Figures.left(name, 36) + Figures.right(Figures.time(whole), 14)
                + Figures.right(Figures.time(sync), 12) + Figures.right(Figures.time(p99), 12)
        }
        let header =
            Figures.left("a durable write of 4 KiB", 36) + Figures.right("write and sync", 14)
            + Figures.right("sync p50", 12) + Figures.right("sync p99", 12)
        return [
            header,
            line(
                "  over written extents", overwriteMicroseconds, overwriteSyncMicroseconds,
                overwriteSyncP99Microseconds),
            line(
                "  over new extents", newExtentMicroseconds, newExtentSyncMicroseconds,
                newExtentSyncP99Microseconds),
            "  \(batch) writes with one sync take \(Figures.time(batchMicroseconds)): "
                + "\(Figures.decimal(batchGain, digits: 1)) times as many durable writes a second",
        ].joined(separator: "\n")
    }
}

extension DiskProfile {
    /// The settings for a person.
    public var text: String {
        func share(_ share: Share) -> String { "depth \(share.depth) weight \(share.weight)" }
        return """
            settings: depth \(depth), \(bytesInFlight >> 20) MiB in flight, an operation costs as \
            much as \(operationBytes >> 10) KiB
              client \(share(client)); repair \(share(repair)); scrub \(share(scrub)); background \
            \(share(background))
              the committer waits \
            \(syncDelayMicroseconds == 0 ? "for nobody" : "\(syncDelayMicroseconds) us for company")
            """
    }
}
