import Model

extension SCMState {
    /// Why a datanode cannot register now; nil: it can.
    ///
    /// One with its identity was heard of just now from another place: there are two of them (a
    /// directory that was copied, a disk image used twice). Both would be told to make, and to
    /// delete, what the other one has. The one that is here stays; the other one is refused for as
    /// long as that is heard of. Of a datanode that starts again elsewhere this costs
    /// `staleAfterNanoseconds`.
    public func identityConflict(of address: DatanodeAddress, at now: UInt64) -> StoreError? {
        guard let known = nodes[address.id] ?? newcomers[address.id],
            let last = known.lastHeartbeat, now < last + options.staleAfterNanoseconds
        else { return nil }
        let other = known.claimed ?? known.address
        guard (other.host, other.port) != (address.host, address.port) else { return nil }
        return StoreError(
            .conflict,
            "datanode \(address) has the identity \(address.id) of the one at \(other), which was "
                + "heard of \((now - min(now, last)) / 1_000_000) ms ago. If it is the same one at "
                + "another place, it can register once that is not heard of any more; otherwise "
                + "one of them was started on a copy: give it a directory and volumes of its own")
    }
}
