import ErasureCode
import Model

/// What the sources say of one block, and what is to be rebuilt of it: pure.
///
/// **What there is to go by.** A block that a key refers to was acknowledged by every replica that
/// one of its cells, or its end, was sent to. So each whole replica has what fell to it: index 1 and
/// the parity indexes have a part of every block; a data index has one unless the block is a single
/// stripe that ends before its cell, of which its datanode may not have heard. The other way round: a
/// block that index 1 or a parity index lacks, or a data index that a byte must have fallen to, was
/// deleted there or never acknowledged. It is not rebuilt; and what the writer sent behind the last
/// stripe that all have (an orphan stripe) is not either.
///
/// **The group's length** is the least that any source knows. It is at least what the key refers to.
/// It may be more, where only the replica that is lost had less: that stripe is one that all sources
/// agree on, no key refers to it, and it does no harm.
struct BlockSurvey: Sendable {
    /// What a source says of the block.
    enum Word: Hashable, Sendable {
        /// Bytes of its replica of the block; user bytes of the group; whether that is its end.
        case has(length: Int, groupLength: Int, isEnded: Bool)
        /// It was asked for all its blocks, and this is none of them.
        case lacks
    }

    /// What is to be done about the block.
    enum Decision: Hashable, Sendable {
        /// No key refers to it, or it is being deleted.
        case drop
        /// Nothing of it falls to the wanted index, and whoever wrote it did not say so there.
        case nothing
        case rebuild(Goal)
    }

    /// What the block replica is to be.
    struct Goal: Hashable, Sendable {
        /// User bytes of the group.
        var groupLength: Int
        /// Bytes of the block replica.
        var length: Int
        var isEnded: Bool
        /// Indexes that have all their bytes of the group.
        var sources: Set<Int>
    }

    let coding: ErasureCoding
    /// To be rebuilt, from 1.
    let index: Int
    /// Indexes without a replica, since no byte of any block fell to them.
    let emptyIndexes: Set<Int>

    /// Whether a source with one of these indexes, and all its blocks, tells which there are.
    func knowsBlocks(_ indexes: some Sequence<Int>) -> Bool {
        indexes.contains { $0 == 1 || $0 > coding.data }
    }

    /// - Parameter words: by index, of each source that is heard. Not empty, and one `has` at least.
    func decide(_ words: [Int: Word]) -> Decision {
        var groupLength = Int.max
        for case .has(_, let length, _) in words.values { groupLength = min(groupLength, length) }
        precondition(groupLength != .max, "a block is decided on that nobody has")
        guard groupLength <= coding.blockGroupSize else { return .drop }
        let geometry = StripeGeometry(coding, groupLength: groupLength)
        var sources: Set<Int> = []
        var isEnded = true
        var isToldToEmpty = false
        for (index, word) in words {
            let expected = geometry.replicaLength(index: index)
            switch word {
            case .lacks:
                if index == 1 || index > coding.data || expected > 0 { return .drop }
            case .has(let length, let known, let ended):
                if length >= expected { sources.insert(index) }
                if expected == 0 { isToldToEmpty = true }
                // An end that came with a stripe that others lack is not this group's.
                isEnded = isEnded && ended && known == groupLength
            }
        }
        for index in emptyIndexes where geometry.replicaLength(index: index) > 0 { return .drop }
        let length = geometry.replicaLength(index: index)
        guard length > 0 || isToldToEmpty else { return .nothing }
        return .rebuild(
            Goal(groupLength: groupLength, length: length, isEnded: isEnded, sources: sources))
    }
}
