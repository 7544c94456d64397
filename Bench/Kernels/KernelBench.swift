import ErasureCode
import Foundation

/// Measures the arithmetic kernels beside their yardsticks, which are called straight from their C
/// libraries in the same run: `kernel-bench [--json FILE] [--rounds N]`.
///
/// Exits with 0 if every goal was reached, 1 if not, 2 if used wrongly.
@main
struct KernelBench {
    static func main() throws {
        var measurer = Measurer()
        var file: String?
        var arguments = CommandLine.arguments.dropFirst()
        while let argument = arguments.popFirst() {
            switch (argument, arguments.popFirst()) {
            case ("--json", .some(let path)):
                file = path
            case ("--rounds", .some(let text)):
                guard let rounds = Int(text), rounds >= 7 else { usage("at least 7 rounds") }
                measurer.rounds = rounds | 1
            default:
                usage("\(argument) is not an option, or lacks its value")
            }
        }
        let machine = Machine()
        print(machine.description)
        print("row, product, yardstick, unit, product and yardstick as median (min–max), ratio")
        var results: [Comparison] = []
        func add(_ rows: [Comparison]) {
            for row in rows { print(row.line) }
            results += rows
        }
        let rows = Rows(measurer: measurer)
        add(try rows.encoding(kernel: .best, row: 1, goal: GaloisKernel.best == .isal ? 0.98 : nil))
        add(try rows.encoding(kernel: .isal, row: 2, goal: 0.98))
        add(try rows.decoding())
        add(try rows.checksums())
        add(try StripeRows(measurer: measurer).rows())
        if let file {
            let data = try JSONSerialization.data(
                withJSONObject: results.map(\.json), options: [.prettyPrinted, .sortedKeys])
            try data.write(to: URL(fileURLWithPath: file))
        }
        exit(results.allSatisfy(\.passed) ? 0 : 1)
    }

    private static func usage(_ problem: String) -> Never {
        FileHandle.standardError.write(
            Data("\(problem)\nusage: kernel-bench [--json FILE] [--rounds N (7 or more)]\n".utf8))
        exit(2)
    }
}
