import ContainerFormat
import Model

// A replica that is being rebuilt. What there is of it is true, but not all: so nobody is told of a
// block of it, and nobody but who rebuilds it adds one. `ContainerState.recovery` says so until
// the journal is there that says `closed`.

extension Container {
    /// Throws if the replica is being rebuilt, and counts for nothing.
    func checkCounts(_ state: borrowing ContainerState) throws(StoreError) {
        if state.recovery != nil { throw isRecovering(state) }
    }

    /// Why something is refused that takes a replica that is being rebuilt, or one that is not, or
    /// by another order.
    func isRecovering(_ state: borrowing ContainerState) -> StoreError {
        guard let token = state.recovery else {
            return StoreError(
                .containerState, "\(name) is \(state.phase) and is not being rebuilt")
        }
        let trouble =
            state.isJournalBroken
            ? "; its journal could not be written: it is to be begun anew" : ""
        return StoreError(
            .containerState,
            "\(name) is being rebuilt by order \(token)\(trouble): it serves nobody, takes no "
                + "cells but that order's, and is not closed before it is whole")
    }

    /// Whether the replica is one that `ContainerStore.removeReplica` with this token is meant for.
    func isToGo(_ state: borrowing ContainerState, recovery token: UInt64) -> Bool {
        if token != 0 { return state.recovery == token }
        // `deleted`: it was sealed before, and its files could not be removed.
        return state.recovery == nil
            && (state.isClosed || state.damage != nil || state.phase == .deleted)
    }
}
