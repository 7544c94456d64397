import Foundation
import Model

/// Bytes to be stored: of a file, or of a stream whose end nobody knows yet.
final class ByteSource {
    /// Bytes that are asked for at once.
    static let pieceBytes = 1 << 20

    private let descriptor: Int32
    private let name: String
    /// nil: not known.
    private(set) var length: Int?

    /// The file at `path`; `-` is standard input.
    init(_ path: String) throws {
        let isInput = path == "-"
        name = isInput ? "standard input" : path
        let opened = isInput ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC)
        guard opened >= 0 else {
            throw StoreError(.io, "\(name) cannot be read: \(String(cString: strerror(errno)))")
        }
        descriptor = opened
        var status = stat()
        guard fstat(opened, &status) == 0 else {
            throw StoreError(.io, "\(name) cannot be read: \(String(cString: strerror(errno)))")
        }
        guard status.st_mode & S_IFMT != S_IFDIR else {
            throw StoreError(.io, "\(name) is a directory; a key is made of one file")
        }
        // Of standard input some may have been read by others.
        let isFile = status.st_mode & S_IFMT == S_IFREG && !isInput
        length = isFile ? Int(status.st_size) : nil
    }

    deinit { close(descriptor) }

    /// Fills `buffer`, but for the end of the bytes. Returns how many there were.
    func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
        var done = 0
        while done < buffer.count {
            let count = Foundation.read(
                descriptor, buffer.baseAddress! + done, buffer.count - done)
            if count == 0 { break }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw StoreError(
                    .io, "\(name) cannot be read: \(String(cString: strerror(errno)))")
            }
            done += count
        }
        return done
    }
}

/// Where fetched bytes are kept: a new file that takes its name when all are there, or a device or
/// a pipe as it is.
final class ByteTarget {
    let descriptor: Int32
    let name: String
    /// What is written to until then; nil: the target itself.
    private var partial: String?

    init(_ path: String) throws {
        name = path
        var status = stat()
        let exists = stat(path, &status) == 0
        if exists, status.st_mode & S_IFMT == S_IFDIR {
            throw StoreError(.io, "\(path) is a directory; give the name of a file")
        }
        // A device must not be replaced by a file.
        let isFile = !exists || status.st_mode & S_IFMT == S_IFREG
        partial = isFile ? path + ".part" : nil
        let opened = open(
            partial ?? path, O_WRONLY | O_CLOEXEC | (isFile ? O_CREAT | O_TRUNC : 0), 0o666)
        descriptor = opened
        guard opened >= 0 else {
            let reason = String(cString: strerror(errno))
            partial = nil
            throw StoreError(.io, "\(path) cannot be written: \(reason)")
        }
    }

    /// Gives the file its name.
    func keep() throws {
        guard let partial else { return }
        guard rename(partial, name) == 0 else {
            throw StoreError(.io, "cannot name \(name): \(String(cString: strerror(errno)))")
        }
        self.partial = nil
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
        // Half a file is worse than none.
        if let partial { unlink(partial) }
    }
}

/// Writes all of `bytes`. A pipe that nobody reads any more ends the program without a word.
func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32, _ name: String) throws {
    var done = 0
    while done < bytes.count {
        let count = write(descriptor, bytes.baseAddress! + done, bytes.count - done)
        if count >= 0 {
            done += count
        } else if errno == EPIPE {
            throw QuietFailure()
        } else if errno != EINTR {
            throw StoreError(.io, "\(name) cannot be written: \(String(cString: strerror(errno)))")
        }
    }
}
