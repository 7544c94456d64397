import Model
import RaftDriver

/// A role as the command line, its group of settings and its unit of systemd name it.
enum ClusterRole: String, CaseIterable, Sendable {
    case om, scm, datanode, s3gateway

    /// The group of its settings.
    var group: String { self == .s3gateway ? "s3" : rawValue }

    /// The port that it listens on where nobody says another.
    var port: Int {
        switch self {
        case .om: 9862
        case .scm: 9863
        case .datanode: 9864
        case .s3gateway: 9878
        }
    }
}

/// A member of the group of OMs or SCMs as settings name it: `om1=HOST:PORT`.
struct MemberAddress: Hashable, Sendable {
    var name: String
    var place: HostPort

    /// - Parameter setting: which setting it is of, for the error.
    /// - Throws: `invalidArgument` with what would be right.
    init(_ text: String, in setting: String) throws(StoreError) {
        let role = String(setting.prefix { $0 != "." })
        let (name, address) = try GroupPlace.parts(of: text, role)
        self.name = name
        place = try HostPort(address)
    }

    /// All members of a list. Throws `invalidArgument` if one is none, or two are of one name or
    /// place.
    static func list(_ texts: [String], in setting: String) throws(StoreError) -> [MemberAddress] {
        var members: [MemberAddress] = []
        for text in texts {
            let member = try MemberAddress(text, in: setting)
            if let other = members.first(where: {
                $0.name == member.name || $0.place == member.place
            }) {
                throw StoreError(
                    .invalidArgument,
                    "\(setting): \(other.name)=\(other.place) and \(text): members have names and "
                        + "addresses of their own")
            }
            members.append(member)
        }
        return members
    }
}
