import ContainerFormat
import Foundation
import Model
import RaftDriver
import Reactor

/// Something that `apus init check` looked at.
struct CheckFinding: Encodable, Sendable, Equatable {
    enum State: String, Encodable, Sendable { case ok, note, fail }

    var state: State
    var what: String
    /// What to do about it.
    var advice: String?

    static func ok(_ what: String) -> Self { Self(state: .ok, what: what) }
    static func note(_ what: String, do advice: String? = nil) -> Self {
        Self(state: .note, what: what, advice: advice)
    }
    static func fail(_ what: String, do advice: String) -> Self {
        Self(state: .fail, what: what, advice: advice)
    }
}

/// What can be said of a host from itself alone. Nothing is changed, and ports are let go again.
struct HostCheck {
    let place: HostPlace
    /// The user that the roles will run as; nil: whoever looks.
    let user: uid_t?

    init(_ place: HostPlace) {
        self.place = place
        user = geteuid() == 0 ? DirectoryOwner.id(of: DirectoryOwner.serviceUser) : nil
    }

    func findings() throws -> [CheckFinding] {
        var found = [name()]
        found += try system() + names()
        for listener in try place.listeners() { found.append(port(listener)) }
        for role in place.roles where role != .s3gateway {
            for path in place.directories(of: role) where !place.volumes.contains(path) {
                found += directory(path, of: role)
            }
        }
        for path in place.volumes { found += volume(path) }
        found += sharedDisks()
        return found
    }

    private func name() -> CheckFinding {
        let machine = Settings.machine
        guard machine == place.name || machine.hasPrefix(place.name + ".") else {
            return .note(
                "this machine is called \(machine), and \(place.name) in \(place.file)",
                do: "put APUS_HOST=\(place.name) into /etc/default/apus, or: hostnamectl hostname "
                    + place.name)
        }
        return .ok("this machine is \(place.name) in \(place.file)")
    }

    private func system() -> [CheckFinding] {
        var found: [CheckFinding] = []
        if geteuid() == 0, user == nil {
            found.append(
                .fail(
                    "there is no user \(DirectoryOwner.serviceUser)",
                    do: "install the package; it makes the user"))
        }
        let path = "/proc/sys/kernel/io_uring_disabled"
        if let data = FileManager.default.contents(atPath: path) {
            let value = String(decoding: data, as: UTF8.self).trimmingCharacters(in: .newlines)
            if value != "0" {
                found.append(
                    .fail(
                        "the kernel refuses io_uring (kernel.io_uring_disabled is \(value))",
                        do: "sysctl -w kernel.io_uring_disabled=0, and a file in /etc/sysctl.d"))
            }
        }
        return found
    }

    /// A name that is the machine's own in `/etc/hosts`, as Debian's installer writes it, would have
    /// the role listen where nobody else comes.
    private func names() throws -> [CheckFinding] {
        guard place.hosts.count > 1 else { return [] }
        let hosts = Set(try place.listeners().filter { !$0.isMetrics }.map(\.place.host))
        return hosts.sorted().compactMap { host in
            let resolved = CheckSockets.addresses(of: host)
            guard let first = resolved.first else {
                return .fail(
                    "\(host) cannot be resolved here",
                    do: "add it to the name server or to /etc/hosts, or give addresses instead")
            }
            guard let loopback = resolved.first(where: { Settings.isLoopback($0) }) else {
                return host == first ? nil : .ok("\(host) is \(first)")
            }
            return .fail(
                "\(host) is \(loopback) here, where no other host reaches it",
                do: host == loopback
                    ? "give the address that this host has in the network of the others"
                    : "take the line with \(loopback) out of /etc/hosts")
        }
    }

    // MARK: Ports

    private func port(_ listener: HostPlace.Listener) -> CheckFinding {
        let text = "\(listener.place) (\(listener.what))"
        do throws(CheckSockets.Failure) {
            close(try CheckSockets.listen(at: listener.place))
            return .ok("port \(text) is free")
        } catch {
            switch error.code {
            case EADDRINUSE: return taken(listener, text)
            case EADDRNOTAVAIL:
                return .fail(
                    "\(listener.place.host) is no address of this machine",
                    do: "see `ip address`; the address in \(place.file) must be this host's")
            default: return .fail("port \(text): \(error.text)", do: "see `ip address`")
            }
        }
    }

    private func taken(_ listener: HostPlace.Listener, _ text: String) -> CheckFinding {
        guard let holder = PortHolder.find(port: listener.place.port) else {
            return .fail(
                "port \(text) is in use", do: "as root: ss -ltnp 'sport = \(listener.place.port)'")
        }
        if holder.runs(listener.role) { return .ok("port \(text): it runs, pid \(holder.pid)") }
        return .fail(
            "port \(text) is held by \(holder.text)",
            do: "stop that, or give another port in \(place.file), on all hosts the same file")
    }

    // MARK: Directories

    /// What the directories of roles hold: names, or beginnings of names.
    private static func files(of role: ClusterRole) -> [String] {
        let common = ["lock", "lost+found"]
        return role == .datanode
            ? common + ["datanode.", "store.", "volumes."]
            : common + ["member.id", "metadata.db", "log", "snapshots"]
    }

    private func directory(_ path: String, of role: ClusterRole) -> [CheckFinding] {
        if let missing = access(path) { return [missing] }
        let names = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
        let known = Self.files(of: role)
        if let strange = names.first(where: { name in !known.contains { name.hasPrefix($0) } }) {
            return [
                .fail(
                    "\(path) (\(role.rawValue)) holds files that are not Apus's: \(strange)",
                    do: "give an empty directory")
            ]
        }
        return [.ok("directory \(path) (\(role.rawValue)) is \(names.isEmpty ? "empty" : "ours")")]
    }

    /// Whose files of a member of a group are in its directory; nil: nothing is wrong with that.
    func stranger(_ role: ClusterRole, on reactor: Reactor) async throws -> CheckFinding? {
        guard role == .om || role == .scm, let path = place.directories(of: role).first,
            Foundation.access(path, R_OK | X_OK) == 0
        else { return nil }
        let member = try place.groupPlace(role)
        do throws(StoreError) {
            _ = try await MemberIdentity.load(from: path, for: member, on: reactor)
            return nil
        } catch {
            return .fail(
                error.message,
                do: "give another directory, or see whether \(place.file) is the right one")
        }
    }

    private func volume(_ path: String) -> [CheckFinding] {
        if let missing = access(path) { return [missing] }
        var found: [CheckFinding] = []
        if let data = FileManager.default.contents(atPath: "\(path)/VERSION") {
            found.append(ours(path, Array(data)))
        } else {
            let names = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? [])
                .sorted().filter { name in
                    // What formatting that was cut off has left is taken up again.
                    !["lost+found", "containers", "VERSION.new"].contains(name)
                        && !name.hasPrefix(DiskProfile.fileName)
                }
            if let strange = names.first {
                found.append(
                    .fail(
                        "volume \(path) holds files that are not Apus's: \(strange)",
                        do: "give an empty directory, or empty it if nobody needs them"))
            } else if let record = try? VolumeRecord.load(from: place.datanodeDirectory),
                let reason = record.refused(of: [path])[path]
            {
                found.append(.fail("volume \(path): \(reason)", do: "mount it"))
            } else {
                found.append(.ok("volume \(path) is empty"))
            }
        }
        return found + fileSystem(of: path)
    }

    /// Whether a volume is of this host's datanode.
    private func ours(_ path: String, _ bytes: [UInt8]) -> CheckFinding {
        let version: VolumeVersion
        do throws(FormatError) { version = try VolumeVersion(parsing: bytes) } catch {
            return .fail(
                "volume \(path)/VERSION: \(error.description)",
                do: "see whether another program wrote it; a volume is never formatted anew")
        }
        let file = "\(place.datanodeDirectory)/datanode.id"
        let own = FileManager.default.contents(atPath: file).flatMap {
            DatanodeID(String(decoding: $0, as: UTF8.self).filter { !$0.isWhitespace })
        }
        guard let own else {
            return .fail(
                "volume \(path) belongs to datanode \(version.datanode), and this host's has no "
                    + "identity (\(file))",
                do: "bring its directory back, or give an empty directory; the bytes of another "
                    + "cluster are lost if this one is emptied")
        }
        guard own == version.datanode else {
            return .fail(
                "volume \(path) belongs to datanode \(version.datanode), this host's is \(own)",
                do: "give it back to its own host, or give an empty directory")
        }
        return .ok("volume \(path) is ours")
    }

    /// Types of file systems on which a sync does not mean what it should.
    private static let noDisks: Set<String> = [
        "tmpfs", "ramfs", "overlay", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs",
    ]

    private func fileSystem(of path: String) -> [CheckFinding] {
        var found: [CheckFinding] = []
        let real = URL(fileURLWithPath: path).resolvingSymlinksInPath().path
        if let type = MountTable.current().mount(of: real)?.type, Self.noDisks.contains(type) {
            found.append(
                .note(
                    "volume \(path) lies on \(type), which is no disk of this host's",
                    do: "use ext4 or XFS on a disk of its own: what is acknowledged must be on it"))
        }
        var space = statvfs()
        if statvfs(path, &space) == 0 {
            let free = Int(clamping: UInt64(space.f_bavail) * UInt64(space.f_frsize))
            if free < 1 << 30 {
                found.append(
                    .fail(
                        "volume \(path) has \(formatBytes(free)) free, and 256 MiB are never used",
                        do: "give it a larger disk"))
            }
        }
        if Self.device(of: path) == Self.device(of: "/") {
            found.append(
                .note(
                    "volume \(path) lies on the root file system",
                    do:
                        "is its disk mounted? If it shall lie there, let datanode.volume-limit-bytes "
                        + "leave room for the rest"))
        }
        return found
    }

    private func sharedDisks() -> [CheckFinding] {
        let byDevice = Dictionary(grouping: place.volumes.filter { Self.device(of: $0) != nil }) {
            Self.device(of: $0)
        }
        return byDevice.values.filter { $0.count > 1 }.map {
            .note(
                "volumes \($0.joined(separator: ", ")) lie on one file system",
                do: "a volume has a disk of its own: what one loses, the others lose with it")
        }
    }

    private static func device(of path: String) -> dev_t? {
        var status = stat()
        return stat(path, &status) == 0 ? status.st_dev : nil
    }

    /// Places that the units do not see (`ProtectHome=`, `PrivateTmp=`).
    private static let hidden = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"]

    /// What keeps the units' user out of what lies above `path`; nil: nothing.
    private func way(to path: String) -> CheckFinding? {
        guard let user else { return nil }
        if let place = Self.hidden.first(where: { path.hasPrefix($0 + "/") }) {
            return .fail(
                "\(path) lies in \(place), which the units of the roles do not see",
                do: "give a directory elsewhere, as below /disks or /srv")
        }
        let group = getpwuid(user)?.pointee.pw_gid
        var parent = (path as NSString).deletingLastPathComponent
        while parent.count > 1 {
            var status = stat()
            if stat(parent, &status) == 0 {
                let bit =
                    status.st_uid == user ? S_IXUSR : status.st_gid == group ? S_IXGRP : S_IXOTH
                guard status.st_mode & bit != 0 else {
                    return .fail(
                        "\(path) is not reached by \(DirectoryOwner.serviceUser): \(parent) lets it "
                            + "not through",
                        do: "chmod o+x \(parent)")
                }
            }
            parent = (parent as NSString).deletingLastPathComponent
        }
        return nil
    }

    /// What keeps the roles' user from working in `path`; nil: nothing.
    private func access(_ path: String) -> CheckFinding? {
        if let hindrance = way(to: path) { return hindrance }
        var status = stat()
        guard stat(path, &status) == 0 else {
            let reason = String(cString: strerror(errno))
            return .fail("\(path): \(reason)", do: "apus init host, as root, makes it")
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            return .fail("\(path) is no directory", do: "give the path of a directory")
        }
        if let user, status.st_uid != user {
            return .fail(
                "\(path) belongs to user \(DirectoryOwner.name(of: status.st_uid)); the roles run as "
                    + DirectoryOwner.serviceUser,
                do: "apus init host gives it to that user if it is empty; else: chown -R "
                    + "\(DirectoryOwner.serviceUser): \(path)")
        }
        guard user != nil || Foundation.access(path, R_OK | W_OK | X_OK) == 0 else {
            return .fail(
                "\(path) cannot be written by \(DirectoryOwner.name(of: geteuid()))",
                do: "run this as root, or give the directory to the user that the roles run as")
        }
        return nil
    }
}

/// What the settings say that does not go together.
enum ClusterCheck {
    static func findings(_ place: HostPlace) async throws -> [CheckFinding] {
        var found: [CheckFinding] = []
        var all: [HostPlace] = []
        for name in place.hosts { all.append(try await place.other(name)) }
        if place.cluster.isEmpty {
            found.append(
                .fail(
                    "the cluster has no cluster.id",
                    do: "give it one: directories of another cluster could not be told from its own"
                ))
        }
        for role in [ClusterRole.om, .scm] {
            let running = all.filter { $0.roles.contains(role) }
            for member in try place.members(of: role)
            where running.count(where: { $0.member(role) == member.name }) != 1 {
                found.append(
                    .fail(
                        "\(member.name) of \(role.group).addresses is not on one host, but on "
                            + "\(running.count(where: { $0.member(role) == member.name }))",
                        do: "say in hosts.HOST.\(role.group).id where it is"))
            }
        }
        let datanodes = all.count { $0.roles.contains(.datanode) }
        let replication = try? ReplicationConfig(place.replication)
        if let replication, replication.width > datanodes {
            found.append(
                .fail(
                    "\(replication) needs \(replication.width) datanodes, and there are \(datanodes)",
                    do: "add hosts, or choose another cluster.replication"))
        }
        if found.isEmpty {
            found.append(
                .ok(
                    "cluster \(place.cluster): \(counted(all.count, "host")), "
                        + "\(counted(datanodes, "datanode")), \(place.replication)"))
        }
        return found
    }
}
