import CLiburing
import CLinux
import Glibc

/// The backend without io_uring: reads, writes and syncs by plain calls in the reactor's thread,
/// what may take longer by the threads of the disks (`BlockingThreads`), sockets by readiness
/// (`poll`). For kernels that refuse a ring and for sanitizers, which do not see what a ring writes.
struct PollBackend: IOBackend, ~Copyable {
    private struct Waiting {
        var request: IORequest
        var descriptor: Int32
        /// What it waits for.
        var events: Int32
        /// Bytes already moved, for receives and sends that want all.
        var done = 0
        var isConnecting = false
    }

    let wakeDescriptor: Int32
    private let threads: BlockingThreads
    private var waiting: [Waiting] = []
    private var polled: [pollfd] = []

    var name: String { "poll" }

    /// - Parameter gate: called on a disk's thread before each operation.
    init(gate: (@Sendable (IORequest.Operation) -> Void)? = nil) {
        wakeDescriptor = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        precondition(wakeDescriptor >= 0, "eventfd: no descriptors left")
        threads = BlockingThreads(wakeDescriptor: wakeDescriptor, gate: gate)
    }

    deinit {
        threads.end()
        Glibc.close(wakeDescriptor)
    }

    mutating func submit(
        _ requests: UnsafeBufferPointer<IORequest>, completed: inout [IOCompletion]
    ) {
        for request in requests {
            switch request.operation {
            case .register, .unregister:
                finish(request, -EOPNOTSUPP, &completed)
            case .endInterval: finish(request, 0, &completed)
            case .accept(let socket), .receive(let socket, _, _, _),
                .receiveMessage(let socket, _):
                begin(request, socket, POLLIN, &completed)
            case .connect(let socket, _, _), .send(let socket, _):
                begin(request, socket, POLLOUT, &completed)
            case .read, .write, .synchronize, .allocate, .closeSocket:
                finish(request, performBlocking(request.operation), &completed)
            case .open, .close, .remove, .makeDirectory, .rename, .truncate,
                .synchronizeDirectory, .call:
                if let result = threads.begin(request) { finish(request, result, &completed) }
            }
        }
    }

    /// Does what can be done on a socket now; the rest waits for `events`.
    private mutating func begin(
        _ request: IORequest, _ socket: IOHandle, _ events: Int32,
        _ completed: inout [IOCompletion]
    ) {
        var entry = Waiting(request: request, descriptor: socket.descriptor, events: events)
        if !progress(&entry, &completed) { waiting.append(entry) }
    }

    mutating func reap(waiting nanoseconds: UInt64?, completed: inout [IOCompletion]) {
        threads.takeCompleted(&completed)
        defer { threads.takeCompleted(&completed) }
        polled.removeAll(keepingCapacity: true)
        polled.append(pollfd(fd: wakeDescriptor, events: Int16(POLLIN), revents: 0))
        for entry in waiting {
            polled.append(pollfd(fd: entry.descriptor, events: Int16(entry.events), revents: 0))
        }
        let limit: Int32 =
            !completed.isEmpty
            ? 0
            : nanoseconds.map { Int32(clamping: ($0 + 999_999) / 1_000_000) } ?? -1
        let ready = poll(&polled, nfds_t(polled.count), limit)
        guard ready > 0 else { return }
        if polled[0].revents != 0 {
            var value: UInt64 = 0
            _ = Glibc.read(wakeDescriptor, &value, 8)
        }
        var kept: [Waiting] = []
        kept.reserveCapacity(waiting.count)
        for index in waiting.indices {
            var entry = waiting[index]
            if polled[index + 1].revents == 0 || !progress(&entry, &completed) {
                kept.append(entry)
            }
        }
        waiting = kept
    }

    private func finish(
        _ request: IORequest, _ result: Int32, _ completed: inout [IOCompletion]
    ) {
        guard request.userData != IOCompletion.ignored else { return }
        completed.append(IOCompletion(userData: request.userData, result: result))
    }

    /// Moves a socket operation on. True once it has completed.
    private func progress(_ entry: inout Waiting, _ completed: inout [IOCompletion]) -> Bool {
        let result =
            switch entry.request.operation {
            case .accept: accept(entry.descriptor)
            case .connect(_, let address, let length): connect(&entry, address, length)
            case .receive(_, let memory, let length, let all):
                receive(&entry, UnsafeMutableRawBufferPointer(start: memory, count: length), all)
            case .receiveMessage(_, let message): receiveMessage(&entry, message)
            case .send(_, let message): send(&entry, message)
            default: preconditionFailure("\(entry.request.operation) is not one of a socket")
            }
        guard let result else { return false }
        finish(entry.request, result, &completed)
        return true
    }

    private func accept(_ descriptor: Int32) -> Int32? {
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
        let result = apus_accept(descriptor)
        if result >= 0 { return result }
        return errno == EAGAIN || errno == EINTR ? nil : -errno
    }

    private func connect(
        _ entry: inout Waiting, _ address: UnsafePointer<sockaddr>, _ length: UInt32
    ) -> Int32? {
        let descriptor = entry.descriptor
        if entry.isConnecting {
            var code: Int32 = 0
            var size = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &size)
            _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
            return -code
        }
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
        let result = Glibc.connect(descriptor, address, length)
        if result == 0 || errno != EINPROGRESS {
            let code = result == 0 ? 0 : -errno
            _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
            return code
        }
        entry.isConnecting = true
        return nil
    }

    private func receive(
        _ entry: inout Waiting, _ memory: UnsafeMutableRawBufferPointer, _ all: Bool
    ) -> Int32? {
        while entry.done < memory.count {
            let result = recv(
                entry.descriptor, memory.baseAddress! + entry.done, memory.count - entry.done,
                Int32(MSG_DONTWAIT))
            if result > 0 {
                entry.done += result
                if !all { break }
            } else if result == 0 {
                break
            } else if errno == EAGAIN {
                return nil
            } else if errno != EINTR {
                return -errno
            }
        }
        return Int32(entry.done)
    }

    private func receiveMessage(
        _ entry: inout Waiting, _ message: UnsafeMutablePointer<msghdr>
    ) -> Int32? {
        while message.pointee.msg_iovlen > 0 {
            let result = recvmsg(
                entry.descriptor, message, Int32(MSG_DONTWAIT) | Int32(APUS_MSG_CMSG_CLOEXEC))
            if result > 0 {
                entry.done += result
                message.pointee.consume(result)
            } else if result == 0 {
                break
            } else if errno == EAGAIN {
                return nil
            } else if errno != EINTR {
                return -errno
            }
        }
        return Int32(truncatingIfNeeded: entry.done)
    }

    private func send(
        _ entry: inout Waiting, _ message: UnsafeMutablePointer<msghdr>
    ) -> Int32? {
        while message.pointee.msg_iovlen > 0 {
            let result = sendmsg(
                entry.descriptor, message, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
            if result >= 0 {
                entry.done += result
                message.pointee.consume(result)
            } else if errno == EAGAIN {
                return nil
            } else if errno != EINTR {
                return -errno
            }
        }
        return Int32(truncatingIfNeeded: entry.done)
    }
}

extension msghdr {
    /// Takes the first `count` bytes out of the vector.
    fileprivate mutating func consume(_ count: Int) {
        var left = count
        while msg_iovlen > 0 {
            let first = msg_iov!
            if left < first.pointee.iov_len {
                first.pointee.iov_base! += left
                first.pointee.iov_len -= left
                return
            }
            left -= first.pointee.iov_len
            msg_iov = first + 1
            msg_iovlen -= 1
        }
    }
}
