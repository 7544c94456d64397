import ContainerFormat
import Model
import Reactor
import Synchronization

// A volume that is to be taken out of use while its datanode goes on: it gets nothing new, its open
// containers are closed, and what it has is reported as leaving, so that SCM has it copied to
// other datanodes. A file says so, and is there as long as it holds.

extension Volume {
    var leavingPath: String { path + "/leaving" }

    var isLeaving: Bool { withState { $0.isLeaving } }

    /// Reads whether the volume leaves. The file's being there says it, whatever is in it. Where that
    /// cannot be read the volume stays, which loses nothing, and a problem says so.
    func loadLeaving() async throws(StoreError) {
        do throws(IOError) {
            let isThere = try await reactor.status(leavingPath, disk: disk) != nil
            withState { $0.isLeaving = isThere }
        } catch {
            if error.isPassing { throw refusal(for: error) }
            noteProblem(
                leavingPath,
                "whether the volume is to leave is not known (\(error.description)); it stays")
        }
    }

    /// Writes down, durably, that the volume leaves, or that it does not. What goes wrong with that is no
    /// reason to do without the volume.
    fileprivate func write(leaving: Bool) async throws(StoreError) {
        do throws(IOError) {
            if leaving {
                try await reactor.replaceFile(
                    leavingPath, with: Array("apus-leaving 1\n".utf8), disk: disk)
            } else {
                if try await reactor.status(leavingPath, disk: disk) != nil {
                    try await reactor.remove(leavingPath, disk: disk)
                }
                // Also where an earlier try ended in between.
                try await reactor.synchronizeDirectory(path, disk: disk)
            }
        } catch {
            if error.isPassing || error.kind == .full {
                note(error)
                throw refusal(for: error)
            }
            throw StoreError(
                .io,
                "it cannot be written down whether volume \(path) leaves: \(error.description)")
        }
    }
}

extension ContainerStore {
    /// Has the volume at `path` leave: nothing new is put on it, its open containers are closed, its
    /// replicas are reported as leaving. Or has it stay after all. Kept across restarts.
    ///
    /// Of several calls at once for one volume each is carried out, in the order in which they come; of
    /// volumes that are told to leave at once the last one that works stays.
    ///
    /// Throws `invalidArgument` where there is no such volume, or no other one would take new
    /// containers; `io`, `noSpace` where that cannot be written down: nothing is changed then.
    public func setLeaving(_ isLeaving: Bool, volume path: String) async throws(StoreError) {
        guard let volume = volumeList.first(where: { $0.path == path }) else {
            throw StoreError(
                .invalidArgument,
                "datanode \(datanode) has no volume \(path); it has: "
                    + volumeList.map(\.path).joined(separator: " "))
        }
        try await volume.leavingTurn.run { () async throws(StoreError) in
            try volume.check()
            let wasLeaving = volume.isLeaving
            // Before it is written: whoever asks next must not count on this one.
            if isLeaving { try beginLeaving(volume) }
            do throws(StoreError) { try await volume.write(leaving: isLeaving) } catch {
                volume.withState { $0.isLeaving = wasLeaving }
                throw error
            }
            volume.withState { $0.isLeaving = isLeaving }
        }
        if isLeaving { closeAll(of: volume) }
    }

    /// Puts nothing more on `volume`, unless it is the last.
    private func beginLeaving(_ volume: Volume) throws(StoreError) {
        let isLast = state.withLock { _ in
            let others = volumeList.contains {
                $0 !== volume && $0.outage == nil && !$0.isLeaving
            }
            if others { volume.withState { $0.isLeaving = true } }
            return !others
        }
        if isLast {
            throw StoreError(
                .invalidArgument,
                "\(volume.path) is the last volume of datanode \(datanode) that works: decommission "
                    + "the datanode instead")
        }
    }
}
