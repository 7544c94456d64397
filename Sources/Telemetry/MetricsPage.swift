/// The labels of a metric, in the order they are written: `["role": "om", "method": "openKey"]`.
public struct MetricLabels: Hashable, Sendable, ExpressibleByDictionaryLiteral {
    private(set) var pairs: [Pair]

    struct Pair: Hashable, Sendable {
        var name: String
        var value: String
    }

    /// Labels by name and value. Precondition: names are those of `MetricNames`, each once.
    public init(dictionaryLiteral elements: (String, String)...) {
        pairs = elements.map { Pair(name: $0.0, value: $0.1) }
        for (index, pair) in pairs.enumerated() {
            precondition(
                MetricNames.isLabel(pair.name), "'\(pair.name)' cannot be the name of a label")
            precondition(
                !pairs[..<index].contains { $0.name == pair.name },
                "the label \(pair.name) is given twice")
        }
    }

    /// These labels and then those of `more`.
    public func adding(_ more: Self) -> Self {
        var result = self
        result.pairs += more.pairs
        return result
    }
}

/// Which names Prometheus takes.
enum MetricNames {
    /// `[a-zA-Z_:][a-zA-Z0-9_:]*`
    static func isMetric(_ name: String) -> Bool { matches(name, colon: true) }

    /// `[a-zA-Z_][a-zA-Z0-9_]*`
    static func isLabel(_ name: String) -> Bool { matches(name, colon: false) }

    private static func matches(_ name: String, colon: Bool) -> Bool {
        guard let first = name.utf8.first, !isDigit(first) else { return false }
        return name.utf8.allSatisfy { byte in
            isDigit(byte) || (0x61...0x7A).contains(byte) || (0x41...0x5A).contains(byte)
                || byte == 0x5F || (colon && byte == 0x3A)
        }
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }
}

/// The metrics of a process at one moment, in Prometheus's text exposition format 0.0.4
/// (prometheus.io, "Exposition formats"): a value type that is filled and then rendered.
///
/// Times are given in nanoseconds and written in seconds, as Prometheus wants base units.
public struct MetricsPage: Sendable {
    /// The `Content-Type` of `text`.
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// Upper ends of the buckets of every histogram on a page, in nanoseconds: the octaves from
    /// 16 us to 34 s, which are borders of the finer buckets too, so that nothing is interpolated.
    /// A value equal to an end counts in the next bucket.
    static let bounds: [UInt64] = (14...35).map { UInt64(1) << UInt64($0) }
    private static let boundTexts = bounds.map { seconds($0) }

    private enum Kind: String {
        case counter, gauge, histogram
    }

    private struct Family {
        var help: String
        var kind: Kind
        var samples = ""
    }

    private var families: [String: Family] = [:]
    private let common: MetricLabels

    /// An empty page; each sample will have the labels `common`.
    public init(labels common: MetricLabels = [:]) { self.common = common }

    // MARK: Samples

    /// Adds a number that only grows. By custom `name` ends in `_total`.
    public mutating func counter(
        _ name: String, _ help: String, _ labels: MetricLabels, _ value: Double
    ) {
        add(name, help, .counter, "\(series(name, labels)) \(Self.number(value))\n")
    }

    /// Adds a number that goes up and down.
    public mutating func gauge(
        _ name: String, _ help: String, _ labels: MetricLabels, _ value: Double
    ) {
        add(name, help, .gauge, "\(series(name, labels)) \(Self.number(value))\n")
    }

    /// Adds the distribution of latencies. By custom `name` ends in `_seconds`.
    public mutating func histogram(
        _ name: String, _ help: String, _ labels: MetricLabels, _ values: LatencySnapshot
    ) {
        var text = ""
        for (count, bound) in zip(values.counts(below: Self.bounds), Self.boundTexts) {
            text += "\(series(name + "_bucket", labels, le: bound)) \(count)\n"
        }
        text += "\(series(name + "_bucket", labels, le: "+Inf")) \(values.count)\n"
        text += "\(series(name + "_sum", labels)) \(Self.seconds(values.sum))\n"
        text += "\(series(name + "_count", labels)) \(values.count)\n"
        add(name, help, .histogram, text)
    }

    /// Adds a counter without labels of its own.
    public mutating func counter(_ name: String, _ help: String, _ value: Double) {
        counter(name, help, [:], value)
    }

    /// Adds a gauge without labels of its own.
    public mutating func gauge(_ name: String, _ help: String, _ value: Double) {
        gauge(name, help, [:], value)
    }

    /// Adds a histogram without labels of its own.
    public mutating func histogram(_ name: String, _ help: String, _ values: LatencySnapshot) {
        histogram(name, help, [:], values)
    }

    private mutating func add(_ name: String, _ help: String, _ kind: Kind, _ text: String) {
        precondition(MetricNames.isMetric(name), "'\(name)' cannot be the name of a metric")
        var family = families.removeValue(forKey: name) ?? Family(help: help, kind: kind)
        precondition(family.kind == kind, "\(name) is a \(family.kind) already, not a \(kind)")
        family.samples += text
        families[name] = family
    }

    // MARK: Text

    /// The page, families in the order of their names, samples in the order they were added in.
    public var text: String {
        var text = ""
        for (name, family) in families.sorted(by: { $0.key < $1.key }) {
            text += "# HELP \(name) \(Self.escapedHelp(family.help))\n"
            text += "# TYPE \(name) \(family.kind.rawValue)\n"
            text += family.samples
        }
        return text
    }

    private func series(_ name: String, _ labels: MetricLabels, le: String? = nil) -> String {
        var pairs = (common.pairs + labels.pairs).map {
            "\($0.name)=\"\(Self.escaped($0.value))\""
        }
        if let le { pairs.append("le=\"\(le)\"") }
        return pairs.isEmpty ? name : "\(name){\(pairs.joined(separator: ","))}"
    }

    /// A label's value: backslash, double quote and line feed are escaped.
    private static func escaped(_ value: String) -> String {
        guard value.utf8.contains(where: { $0 == 0x5C || $0 == 0x22 || $0 == 0x0A }) else {
            return value
        }
        var result = ""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\"": result += "\\\""
            case "\n": result += "\\n"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    /// A help text: backslash and line feed are escaped.
    private static func escapedHelp(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    private static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if value == value.rounded(), abs(value) < 9e15 { return String(Int64(value)) }
        return value.description
    }

    private static func seconds(_ nanoseconds: UInt64) -> String {
        number(Double(nanoseconds) / 1e9)
    }
}

extension LatencySnapshot {
    /// How many values lie below each of `bounds`, which ascend and are borders of buckets.
    func counts(below bounds: [UInt64]) -> [UInt64] {
        var seen: UInt64 = 0
        var bucket = 0
        return bounds.map { bound in
            let end = LatencyBuckets.index(of: bound)
            precondition(
                LatencyBuckets.lowerBound(of: end) == bound, "\(bound) ns is no border of a bucket")
            while bucket < end {
                if bucket < counts.count { seen += counts[bucket] }
                bucket += 1
            }
            return seen
        }
    }
}
