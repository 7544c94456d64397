import Model

/// How likely it is that data is lost, from how containers are now.
///
/// Each of a container's `width` replicas is on a disk of its own; disks fail independently, at a
/// constant rate, and what is missing is rebuilt one replica after the other. Data is lost with one
/// loss more than the redundancy, if each comes before the one before it has been rebuilt. That is the
/// usual chain of losses and repairs (Patterson, Gibson and Katz, "A case for redundant arrays of
/// inexpensive disks", 1988), begun where a container is. It knows nothing of failures that come
/// together, as of a rack or by a fault of the software, which is why real clusters lose data
/// earlier.
struct Durability: Sendable {
    let width: Int
    let minimum: Int
    /// Failures of a disk in a year.
    let failureRate: Double
    /// Years from a loss until it has been rebuilt.
    let repairTime: Double

    /// Losses a year of a container of which `missing` replicas are missing, as long as that is so;
    /// infinite if it is lost.
    func lossRate(missing: Int) -> Double {
        let spare = width - minimum
        guard missing <= spare else { return .infinity }
        // The next failure, and each that has to follow it before something was rebuilt.
        var rate = Double(width - missing) * failureRate
        for lost in (missing..<spare).map({ $0 + 1 }) {
            let failures = Double(width - lost) * failureRate
            rate *= failures / (failures + 1 / repairTime)
        }
        return rate
    }
}

/// How fast replicas have been made since a member began to lead.
struct RebuildMeter: Sendable {
    private(set) var bytes: UInt64 = 0
    /// Nanoseconds in which at least one was being made.
    private(set) var busy: UInt64 = 0
    private var lastLook: UInt64?

    /// To be called at each look.
    mutating func note(isBusy: Bool, at now: UInt64) {
        if isBusy, let lastLook { busy += now - min(now, lastLook) }
        lastLook = now
    }

    mutating func noteMade(_ count: UInt64) { bytes += count }

    /// Bytes a second; nil: too little to tell.
    var rate: Double? {
        guard bytes >= 64 << 20, busy >= 1_000_000_000 else { return nil }
        return Double(bytes) / Double(busy) * 1e9
    }
}
