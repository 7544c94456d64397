import ArgumentParser
import Foundation
import Model

extension InitCommand {
    /// `apus init host`
    struct Host: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make this host's directories, and tell systemd of them.",
            discussion: """
                Directories are made for user apus, and given to it where they are empty. Units \
                may write to /var/lib/apus alone; for other places a file paths.conf is put beside \
                them, which also has them wait for the mounts. Done again, it changes nothing.
                """)
        @OptionGroup var file: InitFile

        func run() async throws {
            let place = try await file.place()
            guard geteuid() == 0 else {
                throw StoreError(
                    .invalidArgument,
                    "directories are given to user \(DirectoryOwner.serviceUser): "
                        + "run it as root")
            }
            guard let owner = getpwnam(DirectoryOwner.serviceUser) else {
                throw StoreError(
                    .invalidArgument,
                    "there is no user \(DirectoryOwner.serviceUser); the package makes it: apt "
                        + "install ./apus_….deb")
            }
            for role in place.roles {
                for path in place.directories(of: role) {
                    try make(path, owner.pointee.pw_uid, owner.pointee.pw_gid)
                }
                try allow(role, place)
            }
            if access("/run/systemd/system", F_OK) == 0 {
                let reload = try Process.run(
                    URL(fileURLWithPath: "/bin/systemctl"), arguments: ["daemon-reload"])
                reload.waitUntilExit()
                guard reload.terminationStatus == 0 else {
                    throw StoreError(.io, "systemctl daemon-reload failed")
                }
            }
            print("\(place.name) is prepared; next: apus init check, on all hosts at the same time")
        }

        /// Makes a directory for the user, with what is missing above it.
        private func make(_ path: String, _ user: uid_t, _ group: gid_t) throws {
            var status = stat()
            if stat(path, &status) == 0 {
                guard status.st_mode & S_IFMT == S_IFDIR else {
                    throw StoreError(.invalidArgument, "\(path) is no directory")
                }
                if status.st_uid == user { return print("\(path) is there") }
                let names = try FileManager.default.contentsOfDirectory(atPath: path)
                guard names.allSatisfy({ $0 == "lost+found" }) else {
                    throw StoreError(
                        .invalidArgument,
                        "\(path) belongs to user \(DirectoryOwner.name(of: status.st_uid)) and is "
                            + "not empty (\(names.sorted()[0])): give another directory, or, if it "
                            + "is this cluster's, chown -R \(DirectoryOwner.serviceUser): \(path)")
                }
            } else {
                let parent = (path as NSString).deletingLastPathComponent
                if stat(parent, &status) != 0 {
                    try FileManager.default.createDirectory(
                        atPath: parent, withIntermediateDirectories: true)
                    // Who works in it must come through it.
                    if parent.hasPrefix("/var/lib/apus") {
                        try Self.give(parent, user, group)
                    }
                }
                guard mkdir(path, 0o750) == 0 else {
                    throw StoreError(
                        .io, "cannot make \(path): \(String(cString: strerror(errno)))")
                }
            }
            try Self.give(path, user, group)
            print("\(path) is made for user \(DirectoryOwner.serviceUser)")
        }

        private static func give(_ path: String, _ user: uid_t, _ group: gid_t) throws {
            guard chown(path, user, group) == 0, chmod(path, 0o750) == 0 else {
                throw StoreError(
                    .io,
                    "cannot give \(path) to \(DirectoryOwner.serviceUser): "
                        + String(cString: strerror(errno)))
            }
        }

        /// Writes the file that lets a unit write outside `/var/lib/apus`, if it must.
        private func allow(_ role: ClusterRole, _ place: HostPlace) throws {
            let folder = "/etc/systemd/system/apus-\(role.rawValue).service.d"
            guard let text = UnitPaths.text(place.directories(of: role), volumes: place.volumes)
            else {
                unlink("\(folder)/paths.conf")
                return
            }
            try FileManager.default.createDirectory(
                atPath: folder, withIntermediateDirectories: true)
            try DurableFile.replace("\(folder)/paths.conf", with: Data(text.utf8), mode: 0o644)
            print("\(folder)/paths.conf lets the role write there, once it is mounted")
        }
    }
}

/// What a unit of systemd is told of directories.
enum UnitPaths {
    /// What units may write to in any case.
    static let usual = "/var/lib/apus"

    /// The lines for those outside `usual`, and for volumes; nil if there are none. A role does not start without the
    /// mounts of its directories; the mounts of volumes are waited for, and one that fails is left
    /// out. Which directory above a volume is mounted is not known where it is not mounted now, so
    /// all are named: units that there are not are no matter to systemd.
    static func text(_ paths: [String], volumes: [String]) -> String? {
        let others = paths.filter { $0 != usual && !$0.hasPrefix(usual + "/") }
        // What is above `usual`, and that itself, the units wait for in any case.
        var mounts: [String] = []
        for unit in paths.filter({ volumes.contains($0) && $0 != usual }).flatMap(mountUnits)
        where !mountUnits(usual).contains(unit) && !mounts.contains(unit) {
            mounts.append(unit)
        }
        guard !others.isEmpty || !mounts.isEmpty else { return nil }
        var lines = [
            "# Written by `apus init host` from the cluster's settings; run it again after a change.",
            "[Unit]",
        ]
        let required = others.filter { !volumes.contains($0) }
        if !required.isEmpty {
            lines.append("RequiresMountsFor=" + required.map(quoted).joined(separator: " "))
        }
        if !mounts.isEmpty {
            lines.append("Wants=" + mounts.joined(separator: " "))
            lines.append("After=" + mounts.joined(separator: " "))
        }
        if !others.isEmpty {
            lines.append("[Service]")
            lines.append("ReadWritePaths=" + others.map { quoted("-" + $0) }.joined(separator: " "))
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// The units that may mount `path`: of each directory on the way to it but the root.
    private static func mountUnits(_ path: String) -> [String] {
        let parts = path.split(separator: "/")
        return parts.indices.map { mountUnit("/" + parts[...$0].joined(separator: "/")) }
    }

    /// The unit that mounts `path`, as systemd-escape(1) names it.
    static func mountUnit(_ path: String) -> String {
        let parts = path.split(separator: "/").map { part in
            part.utf8.enumerated().map { place, byte in
                let isPlain =
                    (byte >= 0x30 && byte <= 0x39) || (byte >= 0x41 && byte <= 0x5A)
                    || (byte >= 0x61 && byte <= 0x7A) || byte == 0x5F || byte == 0x3A
                    || byte == 0x2E
                return isPlain
                    ? String(UnicodeScalar(byte))
                    : "\\x" + (byte < 16 ? "0" : "")
                        + String(byte, radix: 16)
            }.joined()
        }
        let name = parts.isEmpty ? "-" : parts.joined(separator: "-")
        // A name does not begin with a point.
        return (name.hasPrefix(".") ? "\\x2e" + name.dropFirst() : name) + ".mount"
    }

    /// As systemd.syntax(7) and systemd.unit(5) want it.
    private static func quoted(_ path: String) -> String {
        let text = path.replacingOccurrences(of: "\\", with: "\\\\")
            .replacingOccurrences(of: "\"", with: "\\\"").replacingOccurrences(of: "%", with: "%%")
        return "\"\(text)\""
    }
}

/// Which file, and which host of it.
struct InitFile: ParsableArguments {
    @Option(help: "The settings. Default: APUS_CONFIG, or /etc/apus/cluster.json.")
    var config: String?
    @Option(help: "Which host this is. Default: APUS_HOST, or the machine's name.")
    var host: String?

    func place() async throws -> HostPlace {
        guard let file = config ?? RoleOptions.usualFile else {
            throw ValidationError(
                "there is no \(SettingsFile.standardPath) yet: `apus init` writes it, or give "
                    + "--config FILE")
        }
        return try await HostPlace(file: file, host: host ?? RoleOptions.usualHost)
    }
}
