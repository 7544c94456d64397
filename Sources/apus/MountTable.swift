import Foundation

/// The file systems that this process sees, as Linux lists them in `/proc/self/mountinfo`
/// (`proc_pid_mountinfo(5)`).
struct MountTable {
    struct Mount: Hashable {
        /// Where it is mounted.
        var point: String
        var type: String
        /// Of the mount and of the file system.
        var options: Set<Substring>
    }

    var mounts: [Mount]

    /// Reads the kernel's list; lines that it does not understand are left out.
    init(parsing text: String) {
        mounts = text.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            guard let dash = words.firstIndex(of: "-"), dash >= 6, words.count > dash + 3 else {
                return nil
            }
            return Mount(
                point: Self.unescaped(words[4]), type: String(words[dash + 1]),
                options: Set(words[5].split(separator: ",") + words[dash + 3].split(separator: ","))
            )
        }
    }

    /// What this process sees now; empty where there is no such list.
    static func current() -> MountTable {
        MountTable(parsing: KernelFile.contents("/proc/self/mountinfo"))
    }

    /// The mount that holds `path`, absolute and without links: the last one at the longest point.
    func mount(of path: String) -> Mount? {
        mounts.filter { mount in
            let folder = mount.point.hasSuffix("/") ? mount.point : mount.point + "/"
            return (path + "/").hasPrefix(folder)
        }.reduce(nil) { best, mount in
            guard let best, best.point.utf8.count > mount.point.utf8.count else { return mount }
            return best
        }
    }

    /// The kernel writes space, tab, newline and backslash as three octal digits.
    private static func unescaped(_ word: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = word.utf8[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3,
                let code = UInt8(Substring(rest.prefix(3)), radix: 8)
            {
                bytes.append(code)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

extension MountTable {
    /// What an administrator should know of the file systems that hold `volumes`, a line for each.
    func remarks(on volumes: [String]) -> [String] {
        var points: [String: [String]] = [:]
        for volume in volumes {
            let path = URL(fileURLWithPath: volume).resolvingSymlinksInPath().path
            guard let mount = mount(of: path), mount.options.contains("discard") else { continue }
            points[mount.point, default: []].append(volume)
        }
        return points.sorted { $0.key < $1.key }.map { point, volumes in
            "\(point), which holds \(volumes.joined(separator: ", ")), is mounted with discard, so that "
                + "each deletion trims the disk while clients use it; mount it without and run "
                + "fstrim.timer"
        }
    }
}
