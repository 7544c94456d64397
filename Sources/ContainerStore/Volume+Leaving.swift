import ContainerFormat
import Model
import Reactor

// A volume that is to be taken out of use while its datanode goes on: it gets nothing new, its open
// containers are closed, and what it has is reported as leaving, so that SCM has it copied to
// other datanodes. A file says so, and is there as long as it holds.

extension Volume {
    var leavingPath: String { path + "/leaving" }

    var isLeaving: Bool { withState { $0.isLeaving } }

    /// Reads whether the volume leaves. The file's being there says it, whatever is in it.
    func loadLeaving() async throws(StoreError) {
        do throws(IOError) {
            let isThere = try await reactor.status(leavingPath, disk: disk) != nil
            withState { $0.isLeaving = isThere }
        } catch { try failOpening(error) }
    }

    /// Has the volume leave, or stay, durably.
    func set(leaving: Bool) async throws(StoreError) {
        try check()
        do throws(IOError) {
            if leaving {
                try await reactor.replaceFile(
                    leavingPath, with: Array("apus-leaving 1\n".utf8), disk: disk)
            } else if try await reactor.status(leavingPath, disk: disk) != nil {
                try await reactor.remove(leavingPath, disk: disk)
                try await reactor.synchronizeDirectory(path, disk: disk)
            }
        } catch {
            note(error)
            throw refusal(for: error)
        }
        withState { $0.isLeaving = leaving }
    }
}

extension ContainerStore {
    /// Has the volume at `path` leave: nothing new is put on it, its open containers are closed, its
    /// replicas are reported as leaving. Or has it stay after all. Kept across restarts.
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
        let others = volumeList.contains {
            $0 !== volume && $0.outage == nil && !$0.isLeaving
        }
        guard others || !isLeaving else {
            throw StoreError(
                .invalidArgument,
                "\(path) is the last volume of datanode \(datanode) that works: decommission the "
                    + "datanode instead")
        }
        try await volume.set(leaving: isLeaving)
        if isLeaving { closeAll(of: volume) }
    }
}
