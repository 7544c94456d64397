import Foundation

/// The process that listens on a port of this machine, found as `ss -lp` does: the sockets that
/// listen are in `/proc/net/tcp`, whose they are in `/proc/PID/fd` (proc(5)).
struct PortHolder: Equatable {
    var pid: Int32
    /// The command line, its words apart.
    var command: [String]

    /// Whether it is a role of this program.
    func runs(_ role: ClusterRole) -> Bool {
        guard let program = command.first else { return false }
        return (program as NSString).lastPathComponent == "apus"
            && command.dropFirst().first == role.rawValue
    }

    /// `nginx (pid 431)`.
    var text: String {
        let words = command.prefix(2).joined(separator: " ")
        return "\(words.isEmpty ? "a process" : words) (pid \(pid))"
    }

    /// Nil if nobody does, or nobody that this user may look at.
    static func find(port: Int) -> PortHolder? {
        // The kernel's lists are read piece by piece: where sockets come and go one may be missed.
        for _ in 0..<5 {
            if let found = look(port: port) { return found }
        }
        return nil
    }

    private static func look(port: Int) -> PortHolder? {
        let sockets = ["tcp", "tcp6"].flatMap { name in
            inodes(port: port, in: KernelFile.contents("/proc/net/\(name)"))
        }
        guard !sockets.isEmpty else { return nil }
        let names = Set(sockets.map { "socket:[\($0)]" })
        let files = FileManager.default
        for entry in (try? files.contentsOfDirectory(atPath: "/proc")) ?? [] {
            guard let pid = Int32(entry) else { continue }
            let folder = "/proc/\(entry)/fd"
            for file in (try? files.contentsOfDirectory(atPath: folder)) ?? [] {
                guard
                    let target = try? files.destinationOfSymbolicLink(atPath: "\(folder)/\(file)"),
                    names.contains(target)
                else { continue }
                let words = KernelFile.contents("/proc/\(entry)/cmdline").split(separator: "\0")
                    .map(String.init)
                return PortHolder(pid: pid, command: words)
            }
        }
        return nil
    }

    /// Of the sockets that listen on `port`. The second word of a line is the local address with
    /// the port in hexadecimal, the fourth the state (0A listens), the tenth the inode.
    static func inodes(port: Int, in table: String) -> [String] {
        table.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            guard words.count > 9, words[3] == "0A",
                let colon = words[1].lastIndex(of: ":"),
                Int(words[1][words[1].index(after: colon)...], radix: 16) == port
            else { return nil }
            return String(words[9])
        }
    }
}
