import Foundation
import Model

/// Whose the files of a role are.
///
/// A role that runs as the superuser where it ran as a user of its own leaves files that it cannot
/// open later. So it is refused at the start, with the command that would be right.
enum DirectoryOwner {
    /// The user that the package makes.
    static let serviceUser = "apus"

    /// - Throws: `io` if a directory of the role belongs to another user than this process runs as,
    ///   or cannot be written.
    static func check(_ role: ClusterRole, _ settings: Settings) throws(StoreError) {
        guard role != .s3gateway else { return }
        var paths = [settings.text("\(role.group).directory")]
        if role == .datanode { paths += settings.list("datanode.volumes") }
        for path in paths where !path.isEmpty {
            if let reason = refusal(of: path, for: geteuid()) {
                throw StoreError(.io, reason)
            }
        }
    }

    /// Why a role that runs as user `id` is not to use `path`; nil if it may. What is not there yet
    /// is judged by what it would be made in.
    static func refusal(of path: String, for id: uid_t) -> String? {
        var status = stat()
        guard stat(path, &status) == 0 else {
            let parent = (path as NSString).deletingLastPathComponent
            guard errno == ENOENT, !parent.isEmpty, parent != path else { return nil }
            guard id != 0, stat(parent, &status) == 0, access(parent, W_OK | X_OK) != 0,
                errno == EACCES
            else { return nil }
            return "\(path) is not there and cannot be made by user \(name(of: id)) in \(parent), "
                + "which belongs to \(name(of: status.st_uid)); make it: install -d -o "
                + "\(name(of: id)) -m 750 \(path)"
        }
        if id == 0, status.st_uid != 0, isInUse(path, by: status.st_uid) {
            let owner = name(of: status.st_uid)
            return "\(path) belongs to user \(owner), and this is root, whose files \(owner) could "
                + "not open later; run it as a service, or with: runuser -u \(owner) -- apus …"
        }
        guard id == geteuid(), access(path, R_OK | W_OK | X_OK) != 0, errno == EACCES else {
            return nil
        }
        return "\(path) belongs to user \(name(of: status.st_uid)) and cannot be written by "
            + "\(name(of: id)); if it is this role's: chown -R \(name(of: id)) \(path)"
    }

    /// Whether the directory of user `owner` is one that a role works on as that user: it was made
    /// for the service, or has files of a role that are the user's.
    private static func isInUse(_ path: String, by owner: uid_t) -> Bool {
        if owner == id(of: serviceUser) { return true }
        return ["lock", "in-use.lock", "VERSION"].contains { name in
            var status = stat()
            return stat("\(path)/\(name)", &status) == 0 && status.st_uid == owner
        }
    }

    /// The name of a user, or its number.
    static func name(of id: uid_t) -> String {
        guard let entry = getpwuid(id) else { return "\(id)" }
        return String(cString: entry.pointee.pw_name)
    }

    /// The number of a user; nil if there is none of that name.
    static func id(of name: String) -> uid_t? {
        getpwnam(name)?.pointee.pw_uid
    }
}
