import Foundation

/// Files that the kernel makes while they are read, as those of `/proc` (proc(5)): they say that
/// they have no bytes, and give some kilobytes at a time, whatever is asked for. Foundation takes
/// the first piece for all there is.
enum KernelFile {
    /// The most that is taken of one: lists of ten thousands of mounts or sockets.
    static let mostBytes = 64 << 20

    /// All of it, up to `mostBytes`; empty where there is no such file or it cannot be read.
    static func contents(_ path: String) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 64 << 10)
        while bytes.count < mostBytes {
            let count = read(descriptor, &piece, piece.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            bytes += piece[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
