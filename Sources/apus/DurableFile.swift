import Foundation
import Model

/// Small files that are there whole or not at all, also after a power cut.
enum DurableFile {
    /// Replaces the file at `path`.
    /// - Parameter mode: who may read it, whatever the process's mask.
    /// - Throws: `io` with the path and the reason.
    static func replace(_ path: String, with bytes: Data, mode: mode_t) throws(StoreError) {
        func failure(_ what: String) -> StoreError {
            StoreError(.io, "cannot \(what) \(path): \(String(cString: strerror(errno)))")
        }
        let temporary = path + ".new"
        unlink(temporary)
        let file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
        guard file >= 0 else { throw failure("write") }
        defer { close(file) }
        guard fchmod(file, mode) == 0 else { throw failure("set the mode of") }
        do {
            try bytes.withUnsafeBytes { try writeAll($0, to: file, temporary) }
        } catch {
            unlink(temporary)
            throw StoreError(.io, "\(error)")
        }
        guard fsync(file) == 0, rename(temporary, path) == 0 else { throw failure("write") }
        let parent = (path as NSString).deletingLastPathComponent
        let folder = open(parent.isEmpty ? "." : parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw failure("make durable") }
        defer { close(folder) }
        guard fsync(folder) == 0 else { throw failure("make durable") }
    }
}
