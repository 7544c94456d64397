import Model
import Synchronization

// Which replicas may be made here. A replica that is absent has been lost, unless it is certain
// that it was never made (docs/decisions/0011). So none is made because a cell came: it takes a
// permission, which names the epoch that this store told SCM. An epoch lasts as long as the store
// is open, at most; a permission given in an earlier one is worth nothing.

/// What making a replica takes now.
struct ReplicaPermissions {
    enum Limits {
        /// Containers remembered of which no replica is to be made. With more a new epoch begins,
        /// which takes all permissions back.
        static let retired = 65_536
    }

    /// 0 until it was set: then nothing is made by permission.
    private(set) var epoch: UInt64 = 0
    /// Containers of which none is made in this epoch, whoever has a permission.
    private(set) var retired: Set<ContainerID> = []

    mutating func begin(_ epoch: UInt64) {
        precondition(epoch != 0, "an epoch is not 0, which stands for no permission")
        self.epoch = epoch
        retired = []
    }

    mutating func retire(_ id: ContainerID) {
        if retired.count >= Limits.retired, epoch != 0 { begin(epoch == .max ? 1 : epoch + 1) }
        retired.insert(id)
    }
}

/// Why a container replica is not here, or not to be had.
public enum ReplicaAbsence: String, Hashable, Sendable {
    /// There is nothing of it.
    case none
    /// Its files are there but could not be opened.
    case unusable
    /// Its volume was taken out.
    case volumeFailed
}

extension ContainerStore {
    /// Takes permissions of `epoch` from now on, and no others. Not 0.
    public func begin(epoch: UInt64) { state.withLock { $0.permissions.begin(epoch) } }

    /// The epoch whose permissions are taken. Changes by itself, rarely.
    public var epoch: UInt64 { state.withLock { $0.permissions.epoch } }

    /// Whether there is a replica, or one that cannot be had.
    public func hasReplica(of id: ContainerID) -> Bool {
        state.withLock { $0.containers[id] != nil }
    }

    /// Closes the replica of a container; if there is none, none is made in this epoch.
    public func retireContainer(_ id: ContainerID) async throws(StoreError) {
        while true {
            let (found, isChanging) = state.withLock { state in
                let found = state.containers[id]
                let isChanging = state.changing[id] != nil
                if found == nil, !isChanging { state.permissions.retire(id) }
                return (found, isChanging)
            }
            if let found { return try await found.close() }
            guard isChanging else { return }
            await untilUnchanged(id)
        }
    }

    /// Containers of which there is no replica, and none is made in this epoch.
    public var retiredContainers: Set<ContainerID> {
        state.withLock { state in state.permissions.retired.filter { state.containers[$0] == nil } }
    }

    /// Waits for whoever is making or removing container `id`, if somebody is.
    func untilUnchanged(_ id: ContainerID) async {
        await withUnsafeContinuation { (waiter: UnsafeContinuation<Void, Never>) in
            let isWaiting = state.withLock { state in
                guard state.changing[id] != nil else { return false }
                state.changing[id]!.append(waiter)
                return true
            }
            if !isWaiting { waiter.resume() }
        }
    }

    /// Why the replica that is not here may not be made with `permission`; nil if it may.
    static func refusal(
        _ header: (id: ContainerID, replicaIndex: Int), permission: UInt64?,
        _ permissions: ReplicaPermissions
    ) -> StoreError? {
        if permissions.retired.contains(header.id) {
            return StoreError(
                .containerState,
                "container \(header.id) was closed, there is no replica of it and none is made")
        }
        guard let permission, permission != permissions.epoch || permission == 0 else {
            return nil
        }
        return StoreError(
            .noSuchContainer,
            "there is no replica \(header.replicaIndex) of container \(header.id), and "
                + (permission == 0
                    ? "no permission came to make it: where there was one it is lost"
                    : "the permission to make it is of an earlier epoch"))
    }
}
