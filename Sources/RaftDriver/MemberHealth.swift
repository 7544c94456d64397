import Model
import Reactor
import Wire

/// How the disk of a member's log and tables is, in a word and in words.
public struct MemberHealth: Sendable, Equatable {
    enum Limits {
        /// With less of the file system free it is nearly full: this part, but no more than so
        /// many bytes.
        static let leastFreePart = 20
        static let leastFreeBytes = 2 << 30
    }

    public var disk: GroupDiskHealth
    /// What happens; empty where all is well.
    public var reason: String

    static let well = MemberHealth(disk: .well, reason: "")

    /// What the room on a file system says; its path is in the reason.
    init(_ space: FileSystemStatus, of directory: String) {
        let least = min(space.capacity / Limits.leastFreePart, Limits.leastFreeBytes)
        guard space.capacity > 0, space.available < least else {
            self = .well
            return
        }
        self.init(
            disk: .nearlyFull,
            reason: "\(directory): \(space.available >> 20) MiB of \(space.capacity >> 20) MiB are "
                + "free")
    }

    init(disk: GroupDiskHealth, reason: String) {
        self.disk = disk
        self.reason = reason
    }
}

extension RaftMember {
    /// Whether log and tables take what they are given.
    var health: MemberHealth {
        if let failure { return MemberHealth(disk: .failed, reason: failure.message) }
        if waitsForSpace > 0, let lack {
            return MemberHealth(
                disk: lack.code == .noSpace ? .full : .short, reason: lack.message)
        }
        if let (work, since) = core.pace.oldest {
            let seconds = since.duration(to: reactor.now())
            if seconds > options.tick * (Limits.stallElections * options.electionTicks) {
                return MemberHealth(
                    disk: .hangs,
                    reason:
                        "its \(work == .log ? "log has" : "tables have") been at one piece of work "
                        + "for \(seconds.components.seconds) s")
            }
        }
        return .well
    }
}
