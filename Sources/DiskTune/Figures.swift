/// Numbers as people read them.
enum Figures {
    /// 12, 1 234, 56.7 k, 1.2 M.
    static func count(_ value: Double) -> String {
        switch value {
        case ..<10_000: return String(Int(value.rounded()))
        case ..<1_000_000: return decimal(value / 1000, digits: value < 100_000 ? 1 : 0) + "k"
        default: return decimal(value / 1_000_000, digits: 2) + "M"
        }
    }

    /// Bytes per second: 950 MB/s, 3.20 GB/s.
    static func rate(_ bytes: Double) -> String {
        bytes < 1e9
            ? "\(Int((bytes / 1e6).rounded())) MB/s" : decimal(bytes / 1e9, digits: 2) + " GB/s"
    }

    /// Microseconds: 85 us, 1.20 ms, 3.4 s.
    static func time(_ microseconds: Double) -> String {
        switch microseconds {
        case ..<100: return decimal(microseconds, digits: 1) + " us"
        case ..<1000: return "\(Int(microseconds.rounded())) us"
        case ..<1_000_000:
            let digits = microseconds < 10_000 ? 2 : microseconds < 100_000 ? 1 : 0
            return decimal(microseconds / 1000, digits: digits) + " ms"
        default: return decimal(microseconds / 1_000_000, digits: 2) + " s"
        }
    }

    /// `value` with so many digits behind the point.
    static func decimal(_ value: Double, digits: Int) -> String {
        var factor = 1.0
        for _ in 0..<digits { factor *= 10 }
        let scaled = Int((value * factor).rounded())
        guard digits > 0 else { return String(scaled) }
        let (sign, whole) = (scaled < 0 ? "-" : "", abs(scaled))
        let rest = String(whole % Int(factor))
        let zeros = String(repeating: "0", count: digits - rest.count)
        return "\(sign)\(whole / Int(factor)).\(zeros)\(rest)"
    }

    /// `text` at the right of a column.
    static func right(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.count)) + text
    }

    /// `text` at the left of a column.
    static func left(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}

extension DiskCurve {
    /// The throughput of a point in the unit that its work is spoken of.
    func throughput(_ point: DiskPoint) -> String {
        work.operationBytes > 4096
            ? Figures.rate(point.operationsPerSecond * Double(work.operationBytes))
            : Figures.count(point.operationsPerSecond) + "/s"
    }
}
