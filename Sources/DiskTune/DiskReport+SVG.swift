extension DiskReport {
    /// The report as a picture, SVG 1.1: a panel for each kind of work with throughput (line,
    /// left axis) and latencies (dashes, right axis, logarithmic) against depth, the knee marked.
    public var svg: String {
        let (width, height) = (SVGPanel.width, SVGPanel.height)
        var parts = [
            """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(2 * width) \(2 * height + 84)" \
            font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">
            <rect width="100%" height="100%" fill="#fff"/>
            <text x="24" y="30" font-size="18">\(SVGPanel.escaped(path))</text>
            <text x="24" y="50" fill="#666">\(fileBytes >> 20) MiB file, random places, \
            \(isDirect ? "O_DIRECT" : "through the page cache")</text>
            """
        ]
        for (index, curve) in curves.enumerated() {
            let place = (index % 2 * width, 60 + index / 2 * height)
            parts.append(
                "<g transform=\"translate(\(place.0) \(place.1))\">\(SVGPanel(curve).body)</g>")
        }
        let note =
            "a durable 4 KiB write: \(Figures.time(sync.overwriteMicroseconds)) over written "
            + "extents, \(Figures.time(sync.newExtentMicroseconds)) over new ones, "
            + "\(Figures.time(sync.batchMicroseconds)) for \(sync.batch) with one sync"
        parts.append("<text x=\"24\" y=\"\(2 * height + 74)\" fill=\"#666\">\(note)</text>")
        return parts.joined(separator: "\n") + "\n</svg>\n"
    }
}

/// One curve as a picture.
private struct SVGPanel {
    static let width = 460
    static let height = 290
    private let curve: DiskCurve
    private let left = 76.0
    private let right = 384.0
    private let top = 40.0
    private let bottom = 240.0
    /// Powers of ten of microseconds at the ends of the latency axis.
    private let lowDecade: Double
    private let highDecade: Double

    init(_ curve: DiskCurve) {
        self.curve = curve
        let shortest = curve.points.map(\.p50Microseconds).min() ?? 1
        let longest = curve.points.map(\.p99Microseconds).max() ?? 1
        var low = 0.0
        while Self.power(low + 1) <= shortest { low += 1 }
        var high = low + 1
        while Self.power(high) < longest { high += 1 }
        (lowDecade, highDecade) = (low, high)
    }

    private static func power(_ exponent: Double) -> Double {
        var result = 1.0
        for _ in 0..<Int(exponent) { result *= 10 }
        return result
    }

    static func escaped(_ text: String) -> String {
        var result = ""
        for character in text {
            switch character {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.append(character)
            }
        }
        return result
    }

    private func x(_ index: Int) -> Double {
        guard curve.points.count > 1 else { return (left + right) / 2 }
        return left + (right - left) * Double(index) / Double(curve.points.count - 1)
    }

    private func y(throughput: Double) -> Double {
        bottom - (bottom - top) * (curve.peak > 0 ? throughput / (curve.peak * 1.1) : 0)
    }

    private func y(microseconds: Double) -> Double {
        // The decimal logarithm by halving: this layer has no libm.
        var (value, decade) = (max(microseconds, Self.power(lowDecade)), lowDecade)
        while value >= Self.power(decade + 1), decade < highDecade { decade += 1 }
        value /= Self.power(decade)
        var (fraction, step) = (0.0, 0.5)
        for _ in 0..<20 {
            value *= value
            if value >= 10 {
                fraction += step
                value /= 10
            }
            step /= 2
        }
        let part = (decade + min(fraction, 1) - lowDecade) / (highDecade - lowDecade)
        return bottom - (bottom - top) * min(max(part, 0), 1)
    }

    private func number(_ value: Double) -> String { Figures.decimal(value, digits: 1) }

    private func text(
        _ x: Double, _ y: Double, _ anchor: String, _ content: String, color: String = "#666"
    ) -> String {
        "<text x=\"\(number(x))\" y=\"\(number(y))\" text-anchor=\"\(anchor)\" "
            + "fill=\"\(color)\">\(Self.escaped(content))</text>"
    }

    private func line(_ places: [(Double, Double)], _ color: String, dashes: String) -> String {
        let points = places.map { "\(number($0.0)),\(number($0.1))" }.joined(separator: " ")
        return "<polyline points=\"\(points)\" fill=\"none\" stroke=\"\(color)\" "
            + "stroke-width=\"2\" stroke-dasharray=\"\(dashes)\"/>"
    }

    var body: String {
        var parts = [
            "<text x=\"\(number(left))\" y=\"18\" font-size=\"14\">\(curve.work.title)</text>",
            "<rect x=\"\(left)\" y=\"\(top)\" width=\"\(right - left)\" height=\"\(bottom - top)\" "
                + "fill=\"none\" stroke=\"#bbb\"/>",
        ]
        parts += axes + knee
        let indices = Array(curve.points.indices)
        parts.append(
            line(
                indices.map { (x($0), y(microseconds: curve.points[$0].p99Microseconds)) },
                "#d9822b", dashes: "2 4"))
        parts.append(
            line(
                indices.map { (x($0), y(microseconds: curve.points[$0].p50Microseconds)) },
                "#d9822b", dashes: "7 4"))
        let throughput = indices.map {
            (x($0), y(throughput: curve.points[$0].operationsPerSecond))
        }
        parts.append(line(throughput, "#1f6fb2", dashes: "none"))
        parts += throughput.map {
            "<circle cx=\"\(number($0.0))\" cy=\"\(number($0.1))\" r=\"3.5\" fill=\"#1f6fb2\"/>"
        }
        return parts.joined(separator: "\n")
    }

    private var axes: [String] {
        var parts: [String] = []
        for (index, point) in curve.points.enumerated() {
            parts.append(text(x(index), bottom + 18, "middle", String(point.depth)))
        }
        parts.append(text((left + right) / 2, bottom + 36, "middle", "depth"))
        for part in [0, 0.25, 0.5, 0.75, 1] {
            let point = DiskPoint(
                depth: 1, operationsPerSecond: curve.peak * part, p50Microseconds: 0,
                p99Microseconds: 0)
            let height = y(throughput: point.operationsPerSecond)
            parts.append(
                text(left - 8, height + 4, "end", curve.throughput(point), color: "#1f6fb2"))
            parts.append(
                "<line x1=\"\(left)\" x2=\"\(right)\" y1=\"\(number(height))\" "
                    + "y2=\"\(number(height))\" stroke=\"#eee\"/>")
        }
        var decade = lowDecade
        while decade <= highDecade {
            let value = Self.power(decade)
            parts.append(
                text(
                    right + 8, y(microseconds: value) + 4, "start", Figures.time(value),
                    color: "#d9822b"))
            decade += 1
        }
        parts.append(text(right, 18, "end", "— throughput", color: "#1f6fb2"))
        parts.append(text(right, 32, "end", "- - p50   · · p99", color: "#d9822b"))
        return parts
    }

    private var knee: [String] {
        let knee = curve.knee
        guard let index = curve.points.firstIndex(where: { $0.depth == knee.depth }) else {
            return []
        }
        let isRight = 2 * index >= curve.points.count - 1 && index > 0
        return [
            "<line x1=\"\(number(x(index)))\" x2=\"\(number(x(index)))\" y1=\"\(top)\" "
                + "y2=\"\(bottom)\" stroke=\"#3a9d5d\" stroke-dasharray=\"4 3\"/>",
            text(
                x(index) + (isRight ? -6 : 6), bottom - 8, isRight ? "end" : "start",
                "knee: depth \(knee.depth), \(curve.throughput(knee)), "
                    + "\(Figures.time(knee.p50Microseconds))", color: "#3a9d5d"),
        ]
    }
}
