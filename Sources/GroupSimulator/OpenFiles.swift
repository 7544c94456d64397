import Glibc
import Reactor
import Simulator

/// A kernel's open files, and what it does with them.
struct OpenFiles {
    private let files: SimulatedFiles
    private var descriptors: [Int32: SimulatedFiles.Node] = [:]
    private var next: Int32 = 3

    init(of files: SimulatedFiles) { self.files = files }

    /// The file or directory that a sync makes durable; nil of other operations.
    func target(of operation: SimulatedOperation) -> SimulatedFiles.Node? {
        switch operation {
        case .synchronize(let descriptor): descriptors[descriptor]
        case .synchronizeDirectory(let path): files.find(path)
        default: nil
        }
    }

    /// Carries an operation out; a sync of `target` makes durable what was done before `mark`.
    mutating func carryOut(
        _ operation: SimulatedOperation, on target: SimulatedFiles.Node?, through mark: Int
    ) -> Int32 {
        switch operation {
        case .read(let descriptor, let memory, let offset):
            guard let node = descriptors[descriptor] else { return -EBADF }
            let count = max(0, min(memory.count, node.content.count - offset))
            node.content.withUnsafeBytes { bytes in
                guard count > 0 else { return }
                memory.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count]))
            }
            return Int32(count)
        case .write(let descriptor, let bytes, let offset, let isDurable):
            guard let node = descriptors[descriptor] else { return -EBADF }
            files.change(node, .write(offset: offset, Array(bytes)))
            if isDurable { files.force(node, files.mark(node) - 1) }
            return Int32(bytes.count)
        case .synchronize, .synchronizeDirectory:
            guard let target else { return -ENOENT }
            files.synchronize(target, through: mark)
            return 0
        case .allocate(let descriptor, let mode, let offset, let length):
            guard let node = descriptors[descriptor] else { return -EBADF }
            if mode != 0 {
                files.change(node, .zero(offset..<offset + length))
            } else if node.content.count < offset + length {
                files.change(node, .resize(offset + length))
            }
            return 0
        case .truncate(let descriptor, let size):
            guard let node = descriptors[descriptor] else { return -EBADF }
            files.change(node, .resize(size))
            return 0
        case .open(let path, let flags):
            switch files.open(path, flags: flags) {
            case .failure(let error): return -error.code
            case .success(let node):
                next += 1
                descriptors[next] = node
                return next
            }
        case .close(let descriptor):
            return descriptors.removeValue(forKey: descriptor) == nil ? -EBADF : 0
        case .remove(let path): return files.remove(path)
        case .makeDirectory(let path): return files.makeDirectory(path)
        case .rename(let from, let target): return files.rename(from, to: target)
        case .ask: return 0
        }
    }

    // MARK: Questions

    func list(_ path: String) -> Result<[String], IOError> {
        guard let names = files.list(path) else {
            return .failure(IOError(code: ENOENT, operation: "opendir", path: path))
        }
        return .success(names)
    }

    func status(_ path: String) -> FileStatus? {
        files.find(path).map {
            FileStatus(
                size: $0.content.count, isDirectory: $0.isDirectory, allocated: $0.content.count)
        }
    }

    func size(_ descriptor: Int32, path: String) -> Result<Int, IOError> {
        guard let node = descriptors[descriptor] else {
            return .failure(IOError(code: EBADF, operation: "fstat", path: path))
        }
        return .success(node.content.count)
    }

    static func space(isFull: Bool) -> FileSystemStatus {
        FileSystemStatus(capacity: 1 << 40, available: isFull ? 0 : 1 << 39)
    }
}
