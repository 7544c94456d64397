import Model

/// Which replicas of a volume are to be verified, and which of them first: by age and suspicion.
///
/// Age counts from the last time when all of a replica was found whole. Where damage was met lately, in
/// a replica or on its disk, time passes faster: what has rotted once rots again, and disks fail in
/// parts before they fail. Pure.
struct ScrubOrder: Sendable {
    /// How long damage makes suspicious, in milliseconds.
    static let memory: Int64 = 7 * 86_400_000
    /// How much faster time passes for a replica that was damaged, and for others on its disk.
    static let factorOfReplica = 8.0
    static let factorOfDisk = 2.0

    /// When each was found whole last, in milliseconds since 1970.
    var verified: [ContainerID: Int64]
    /// When damage was found last, or healed.
    var damaged: [ContainerID: Int64]
    /// Of a replica that nothing speaks against, in milliseconds.
    var period: Int64
    var at: Int64
    private let isDiskSuspicious: Bool

    init(
        verified: [ContainerID: Int64], damaged: [ContainerID: Int64], period: Int64, at now: Int64
    ) {
        self.verified = verified
        self.damaged = damaged
        self.period = period
        at = now
        isDiskSuspicious = damaged.values.contains { now - $0 < Self.memory }
    }

    /// From 1 on a replica is due; the greatest goes first.
    func urgency(of id: ContainerID) -> Double {
        guard let time = verified[id] else { return .infinity }
        let age = Double(at - time) / Double(max(period, 1))
        if let found = damaged[id], at - found < Self.memory { return age * Self.factorOfReplica }
        return isDiskSuspicious ? age * Self.factorOfDisk : age
    }
}
