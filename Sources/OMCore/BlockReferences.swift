import Model
import Wire

/// What becomes of blocks when records that refer to them go.
enum BlockReferences {
    /// Comparing each with each is quicker for so few pairs than making a set.
    private static let fewPairs = 64

    /// The blocks that nobody needs any more when the references `gone` are dropped and `kept` take
    /// their place: each once, in the order in which they are named first.
    ///
    /// A reference to a whole group is the only one to it, so the group goes with it. A reference
    /// to a part of one says that others may have the rest: that group stays, since nothing counts
    /// them yet. No command makes such references so far.
    static func released(
        by gone: [OMStoredBlock], keptBy kept: [OMStoredBlock] = []
    ) -> [WireBlock] {
        var released: [WireBlock] = []
        released.reserveCapacity(gone.count)
        guard gone.count * (gone.count + kept.count) > fewPairs else {
            for reference in gone where reference.isWhole {
                let block = reference.block
                guard !released.contains(block), !kept.contains(where: { $0.block == block })
                else { continue }
                released.append(block)
            }
            return released
        }
        var seen = Set(kept.map { BlockID($0.block) })
        for reference in gone where reference.isWhole {
            guard seen.insert(BlockID(reference.block)).inserted else { continue }
            released.append(reference.block)
        }
        return released
    }
}
