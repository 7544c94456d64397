import CLinux
import Glibc

/// Does an operation by its plain system call, in the calling thread. Returns its result or
/// -errno. Not for operations on sockets.
func performBlocking(_ operation: IORequest.Operation) -> Int32 {
    while true {
        let result = callSystem(operation)
        if result >= 0 { return Int32(truncatingIfNeeded: result) }
        if errno != EINTR { return -errno }
        // The descriptor is gone all the same.
        if case .close = operation { return -EINTR }
    }
}

/// What the system call returns.
private func callSystem(_ operation: IORequest.Operation) -> Int {
    switch operation {
    case .read(let transfer):
        return pread(
            transfer.file.descriptor, transfer.memory, transfer.length, Int(transfer.offset))
    case .write(let transfer, let isDurable):
        let descriptor = transfer.file.descriptor
        let count = pwrite(descriptor, transfer.memory, transfer.length, Int(transfer.offset))
        let isLost = isDurable && count >= 0 && fdatasync(descriptor) != 0
        return isLost ? -1 : count
    case .synchronize(let file): return Int(fdatasync(file.descriptor))
    case .allocate(let file, let mode, let offset, let length):
        return Int(
            apus_fallocate(file.descriptor, Int32(mode), Int64(offset), Int64(length)))
    case .truncate(let file, let size): return Int(ftruncate(file.descriptor, Int(size)))
    case .open(let path, let flags, let mode): return Int(Glibc.open(path, flags, mode))
    case .close(let descriptor), .closeSocket(let descriptor):
        return Int(Glibc.close(descriptor))
    case .call(let call):
        call.takeUnretainedValue().run()
        return 0
    case .remove(let path): return removeEntry(path)
    case .makeDirectory(let path): return Int(mkdir(path, 0o755))
    case .rename(let from, let to): return Int(Glibc.rename(from, to))
    case .synchronizeDirectory(let path): return synchronizeDirectory(path)
    case .accept, .connect, .receive, .send, .receiveMessage, .register, .unregister,
        .endInterval:
        preconditionFailure("\(operation) is not a file operation")
    }
}

private func removeEntry(_ path: UnsafePointer<CChar>) -> Int {
    if unlink(path) == 0 { return 0 }
    guard errno == EISDIR || errno == EPERM else { return -1 }
    return Int(rmdir(path))
}

private func synchronizeDirectory(_ path: UnsafePointer<CChar>) -> Int {
    let descriptor = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return -1 }
    let result = fsync(descriptor)
    let code = errno
    Glibc.close(descriptor)
    errno = code
    return Int(result)
}
