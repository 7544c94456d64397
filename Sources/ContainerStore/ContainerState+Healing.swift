/// Where damage was found: what is to be read again before a replica is called whole.
struct Suspicion: Hashable, Sendable {
    /// Blocks that are remembered one by one.
    static let mostBlocks = 1024

    private(set) var blocks: Set<UInt64> = []
    /// Something beside cells is damaged, or too many blocks, or it is not known what.
    private(set) var isOfAll = false

    var isEmpty: Bool { blocks.isEmpty && !isOfAll }

    /// - Parameter block: nil: something else.
    mutating func add(_ block: UInt64?) {
        guard let block, blocks.count < Self.mostBlocks || blocks.contains(block) else {
            isOfAll = true
            return
        }
        blocks.insert(block)
    }
}

extension ContainerState {
    /// Whether `localID` is not to be had any more, so that what its extents hold is no damage.
    func isGone(_ localID: UInt64) -> Bool { phase == .deleted || deleted.contains(localID) }

    /// The same, and no deletion that may fail yet is the reason.
    func isGoneForGood(_ localID: UInt64) -> Bool {
        phase == .deleted || deleted.contains(localID) && !unconfirmed.contains(localID)
    }

    /// Whether the replica may make way for one that is rebuilt: it counts, is damaged, and nobody is
    /// about to make it good.
    var isToGiveWay: Bool { recovery == nil && damage != nil && !isHealing }

    /// Takes up what is suspected.
    mutating func takeSuspicion() -> Suspicion {
        defer { suspicion = Suspicion() }
        return suspicion
    }

    /// Notes that nothing is wrong any more, unless something was found since `takeSuspicion`.
    mutating func endDamage() -> Bool {
        guard suspicion.isEmpty else { return false }
        damage = nil
        return true
    }
}
