import CLinux
import Glibc

/// Does an operation by its plain system call, in the calling thread. Returns its result or
/// -errno. Not for operations on sockets.
func performBlocking(_ request: IORequest) -> Int32 {
    let pointer = UnsafeMutableRawPointer(bitPattern: request.address)
    func path() -> UnsafePointer<CChar> {
        precondition(pointer != nil, "the operation needs a path")
        return UnsafePointer(pointer!.assumingMemoryBound(to: CChar.self))
    }
    while true {
        let result: Int
        switch request.opcode {
        case .read:
            result = pread(request.descriptor, pointer, request.length, Int(request.offset))
        case .write:
            let count = pwrite(request.descriptor, pointer, request.length, Int(request.offset))
            let isLost = request.isDurable && count >= 0 && fdatasync(request.descriptor) != 0
            result = isLost ? -1 : count
        case .synchronize: result = Int(fdatasync(request.descriptor))
        case .allocate:
            result = Int(
                apus_fallocate(
                    request.descriptor, Int32(request.flags), Int64(request.offset),
                    Int64(request.length)))
        case .truncate: result = Int(ftruncate(request.descriptor, Int(request.offset)))
        case .open:
            result = Int(Glibc.open(path(), Int32(request.flags), mode_t(request.length)))
        case .close, .closeSocket: result = Int(Glibc.close(request.descriptor))
        case .call:
            precondition(pointer != nil, "a call has something to do")
            Unmanaged<BlockingCall>.fromOpaque(pointer!).takeUnretainedValue().run()
            result = 0
        case .remove: result = removeEntry(path())
        case .makeDirectory: result = Int(mkdir(path(), 0o755))
        case .rename:
            let target = UnsafePointer<CChar>(bitPattern: UInt(request.offset))
            precondition(target != nil, "rename needs a target")
            result = Int(Glibc.rename(path(), target))
        case .synchronizeDirectory: result = synchronizeDirectory(path())
        case .accept, .connect, .receive, .send, .receiveMessage, .register, .unregister,
            .endInterval:
            preconditionFailure("\(request.opcode) is not a file operation")
        }
        if result >= 0 { return Int32(truncatingIfNeeded: result) }
        if errno != EINTR || request.opcode == .close { return -errno }
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
