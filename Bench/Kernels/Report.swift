import CISAL
import ErasureCode
import Foundation

/// What the figures hold for: processor, kernels and the yardstick's version.
struct Machine {
    let processor: String
    let features: [String]
    let kernel = GaloisKernel.best

    init() {
        let text = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        func value(_ key: String) -> String {
            let line = text.split(separator: "\n").first { $0.hasPrefix(key) } ?? ""
            return line.split(separator: ":").last.map {
                $0.trimmingCharacters(in: .whitespaces)
            } ?? "unknown"
        }
        processor = value("model name")
        let present = Set(value("flags").split(separator: " ").map(String.init))
        features = [
            "sse4_2", "avx2", "avx512f", "avx512bw", "avx512vl", "gfni", "vpclmulqdq",
        ].filter { present.contains($0) }
    }

    var description: String {
        "\(processor); \(features.joined(separator: " ")); GF(2^8) by \(kernel); "
            + "ISA-L \(ISAL_MAJOR_VERSION).\(ISAL_MINOR_VERSION).\(ISAL_PATCH_VERSION)"
    }
}

extension Comparison {
    /// A line of the table.
    var line: String {
        func spread(_ spread: Spread) -> String {
            String(format: "%.1f (%.1f–%.1f)", spread.median, spread.min, spread.max)
        }
        func padded(_ text: String, _ width: Int) -> String {
            text + String(repeating: " ", count: max(0, width - text.count))
        }
        let bound = unit == .throughput ? "≥" : "≤"
        return [
            "\(row)", padded(name, 44), padded(yardstick, 28), padded(unit.rawValue, 10),
            padded(spread(product), 22), padded(spread(reference), 22),
            padded(String(format: "%.2f", ratio), 5),
            padded("\(bound) " + String(format: "%.2f", goal), 7), passed ? "passed" : "missed",
        ].joined(separator: "  ")
    }

    /// For `--json`.
    var json: [String: Any] {
        func spread(_ spread: Spread) -> [String: Double] {
            ["median": spread.median, "min": spread.min, "max": spread.max]
        }
        return [
            "row": row, "name": name, "yardstick": yardstick, "unit": unit.rawValue,
            "product": spread(product), "reference": spread(reference), "ratio": ratio,
            "goal": goal, "passed": passed,
        ]
    }
}
