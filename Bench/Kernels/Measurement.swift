import Glibc

/// Median, least and most of some rounds.
struct Spread {
    let median: Double
    let min: Double
    let max: Double

    /// Precondition: at least one value.
    init(_ values: [Double]) {
        precondition(!values.isEmpty, "a median needs at least one value")
        let sorted = values.sorted()
        median = sorted[sorted.count / 2]
        min = sorted[0]
        max = sorted[sorted.count - 1]
    }
}

/// What the figures of a comparison are, and which direction is good.
enum Unit: String {
    /// User bytes, 10^9 a second of CPU time: more is better.
    case throughput = "GB/s"
    /// CPU time for each GiB of user bytes: less is better.
    case cost = "CPU ms/GiB"
}

/// One line of the table: the product beside its yardstick, measured in turns.
struct Comparison {
    let row: Int
    let name: String
    let yardstick: String
    let unit: Unit
    let product: Spread
    let reference: Spread
    /// Product through reference, both medians.
    let ratio: Double
    /// Bound of the ratio: from below for a throughput, from above for a cost.
    let goal: Double

    var passed: Bool { unit == .throughput ? ratio >= goal : ratio <= goal }
}

/// CPU time of this thread in seconds.
private func threadTime() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Runs yardstick and product in turns.
struct Measurer {
    /// Rounds of each; odd, so that the median is one of them.
    var rounds = 11
    /// CPU seconds of one side in a round, about.
    var secondsPerRound = 0.05

    /// Compares two ways of handling `bytes` user bytes. Who goes first changes from round to
    /// round. Both have run once before, so that tables and matrices are there.
    func compare(
        row: Int, _ name: String, to yardstick: String, unit: Unit, goal: Double, bytes: Int,
        reference: () -> Void, product: () -> Void
    ) -> Comparison {
        reference()
        product()
        let start = threadTime()
        reference()
        let once = max(threadTime() - start, 1e-7)
        let repeats = max(1, Int(secondsPerRound / once))
        func figure(_ body: () -> Void) -> Double {
            let start = threadTime()
            for _ in 0..<repeats { body() }
            let seconds = (threadTime() - start) / Double(repeats)
            return unit == .throughput
                ? Double(bytes) / seconds / 1e9 : seconds * 1000 * Double(1 << 30) / Double(bytes)
        }
        var references: [Double] = []
        var products: [Double] = []
        for round in 0..<rounds {
            if round % 2 == 0 { references.append(figure(reference)) }
            products.append(figure(product))
            if round % 2 == 1 { references.append(figure(reference)) }
        }
        let ours = Spread(products)
        let theirs = Spread(references)
        return Comparison(
            row: row, name: name, yardstick: yardstick, unit: unit, product: ours,
            reference: theirs, ratio: ours.median / theirs.median, goal: goal)
    }
}
