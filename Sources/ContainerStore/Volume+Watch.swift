import Model
import Reactor
import Synchronization

// A hung disk fails nothing: its operations just do not end. What waits for them would hold its
// caller's memory and patience, and new operations would queue up behind. So a volume of which
// nothing ends for a while is suspended: what comes is refused at once, who waits is told, and the
// node goes on with its other disks. When an operation ends after all, the volume is back.

extension Volume {
    private enum Limits {
        /// The longest time between two looks in which the process may have been merely busy.
        static let standstill = Duration.seconds(3)
    }

    /// Looks whether the disk answers. Called about once a second. Returns whether the volume has
    /// just been suspended, or resumed; nil if nothing has changed.
    func watch() -> Bool? {
        let completed = disk.operationsCompleted
        let inFlight = disk.operationsInFlight
        let now = reactor.now()
        let change = withState { state -> Bool? in
            let hasMoved = completed != state.seenCompleted
            state.seenCompleted = completed
            // Where it was not looked at for long, it is the process that stood still: that says
            // nothing about the disk.
            let patience = max(options.watchInterval * 3, Limits.standstill)
            let stoodStill = state.lookedAt.map { $0.advanced(by: patience) < now } ?? false
            state.lookedAt = now
            if stoodStill, !hasMoved {
                state.seenAt = now
                return nil
            }
            guard inFlight > 0, !hasMoved, let since = state.seenAt else {
                state.seenAt = now
                defer { state.suspension = nil }
                return state.suspension == nil ? nil : false
            }
            guard state.suspension == nil, state.failure == nil,
                now >= since.advanced(by: options.hangDelay)
            else { return nil }
            state.suspension =
                "the disk does not answer: \(inFlight) operations, none of which has ended for "
                + "\(options.hangDelay)"
            return true
        }
        if let change { disk.suspend(change) }
        return change
    }

    /// How the disk has done in the last seconds.
    func recent() -> RecentDisk {
        let values = disk.clientLatencies()
        let isBusy = disk.operationsInFlight > 0
        let completed = disk.operationsCompleted
        let now = reactor.now()
        return withState { state in
            var recent = state.latencies.recent(values, at: now)
            if isBusy, completed == state.seenCompleted, let since = state.seenAt {
                recent.standstill = max(since.duration(to: now), .zero)
            }
            return recent
        }
    }
}

extension ContainerStore {
    /// Watches the volumes' disks until the store is closed.
    func startWatching() {
        for volume in volumeList where volume.failure == nil {
            let task = Task(executorPreference: volume.reactor) { [weak self] in
                while !Task.isCancelled {
                    do throws(CancellationError) {
                        try await volume.reactor.sleep(for: volume.options.watchInterval)
                    } catch { return }
                    guard let self else { return }
                    if volume.watch() == true { self.tellWaiters(of: volume) }
                }
            }
            state.withLock { $0.watches.append(task) }
        }
    }

    /// Tells whoever waits for an append on `volume` that its disk does not answer.
    private func tellWaiters(of volume: Volume) {
        let error = StoreError(
            .io, "volume \(volume.path) was taken out: \(volume.outage ?? "it hangs")")
        for container in state.withLock({ Array($0.containers.values) })
        where container.volume === volume {
            let waiters = container.state.withLock { $0.takeAppendWaiters() }
            for waiter in waiters { waiter.resume(returning: .failure(error)) }
        }
    }
}
