/// Stands in for the kernel, the disks and the clock under a reactor that a simulator steps: see
/// `Reactor.simulated`. What it answers follows from a seed, so that a run can be seen again.
///
/// Called on the thread of the simulation alone, which is that of all its reactors.
public protocol SimulatedKernel: AnyObject {
    /// The machine's monotonic clock.
    var now: MonotonicTime { get }

    /// A number where a real machine draws one by chance.
    func randomNumber() -> UInt64

    /// Begins an operation. Its end is told by `Reactor.complete` with `number`, in a later step;
    /// until then its memory may be read and written. What it is about is in force when it ends,
    /// or was never done: that is the kernel's to decide.
    func begin(_ operation: SimulatedOperation, number: UInt64)

    // What is asked about files, answered when the operation `.ask` has completed.

    /// Names in a directory, in any order.
    func list(_ path: String) -> Result<[String], IOError>
    /// nil if there is nothing at `path`.
    func status(_ path: String) -> Result<FileStatus?, IOError>
    /// Bytes of an open file.
    func size(_ descriptor: Int32, path: String) -> Result<Int, IOError>
    /// Space of the file system that holds `path`.
    func space(_ path: String) -> Result<FileSystemStatus, IOError>
}

/// An operation on files, as a simulated kernel is asked for it. Results are those of the system
/// calls, or -errno.
///
/// `@unchecked Sendable`: the pointers are only passed on; whoever asks keeps what they refer to
/// until the operation has completed.
public enum SimulatedOperation: @unchecked Sendable {
    case read(descriptor: Int32, into: UnsafeMutableRawBufferPointer, offset: Int)
    /// `isDurable`: it has completed when these bytes are on stable media.
    case write(descriptor: Int32, UnsafeRawBufferPointer, offset: Int, isDurable: Bool)
    /// `fdatasync`.
    case synchronize(descriptor: Int32)
    /// `fallocate`, with its `mode`.
    case allocate(descriptor: Int32, mode: UInt32, offset: Int, length: Int)
    case truncate(descriptor: Int32, size: Int)
    /// `flags` of open(2). Result: descriptor.
    case open(path: String, flags: Int32)
    case close(descriptor: Int32)
    /// A file or an empty directory.
    case remove(path: String)
    case makeDirectory(path: String)
    case rename(from: String, to: String)
    case synchronizeDirectory(path: String)
    /// A question about `path`, asked of the kernel when this has completed.
    case ask(path: String)
}

/// The backend of a reactor that is stepped: hands operations to a simulated kernel.
struct SimulatedBackend: IOBackend, ~Copyable {
    private let kernel: any SimulatedKernel
    private var inFlight: [UInt64: IORequest] = [:]
    private var done: [IOCompletion] = []
    private var next: UInt64 = 1

    init(_ kernel: any SimulatedKernel) { self.kernel = kernel }

    var wakeDescriptor: Int32 { -1 }
    var name: String { "simulated" }

    mutating func submit(
        _ requests: UnsafeBufferPointer<IORequest>, completed: inout [IOCompletion]
    ) {
        for request in requests {
            guard let operation = Self.translated(request.operation) else {
                completed.append(
                    IOCompletion(
                        userData: request.userData, result: Self.refusal(request.operation)))
                continue
            }
            let number = next
            next += 1
            inFlight[number] = request
            kernel.begin(operation, number: number)
        }
    }

    mutating func reap(waiting nanoseconds: UInt64?, completed: inout [IOCompletion]) {
        completed.append(contentsOf: done)
        done.removeAll(keepingCapacity: true)
    }

    /// The kernel is through with an operation.
    mutating func complete(_ number: UInt64, _ result: Int32) {
        guard let request = inFlight.removeValue(forKey: number) else {
            preconditionFailure("operation \(number) is completed, and is not in flight")
        }
        if case .call(let call) = request.operation, result >= 0 {
            call.takeUnretainedValue().run()
        }
        guard request.userData != IOCompletion.ignored else { return }
        done.append(IOCompletion(userData: request.userData, result: result))
    }

    private static func refusal(_ operation: IORequest.Operation) -> Int32 {
        switch operation {
        case .endInterval: 0
        case .register, .unregister: -Refusal.unsupported
        default: preconditionFailure("a simulated reactor has no sockets: \(operation)")
        }
    }

    /// nil for what is none of a kernel's: the ring's own, and sockets.
    private static func translated(_ operation: IORequest.Operation) -> SimulatedOperation? {
        switch operation {
        case .read(let transfer):
            .read(
                descriptor: transfer.file.descriptor,
                into: UnsafeMutableRawBufferPointer(
                    start: transfer.memory, count: transfer.length),
                offset: Int(transfer.offset))
        case .write(let transfer, let isDurable):
            .write(
                descriptor: transfer.file.descriptor,
                UnsafeRawBufferPointer(start: transfer.memory, count: transfer.length),
                offset: Int(transfer.offset), isDurable: isDurable)
        case .synchronize(let file): .synchronize(descriptor: file.descriptor)
        case .allocate(let file, let mode, let offset, let length):
            .allocate(
                descriptor: file.descriptor, mode: mode, offset: Int(offset), length: Int(length))
        case .truncate(let file, let size):
            .truncate(descriptor: file.descriptor, size: Int(size))
        case .open(let path, let flags, _): .open(path: String(cString: path), flags: flags)
        case .close(let descriptor): .close(descriptor: descriptor)
        case .remove(let path): .remove(path: String(cString: path))
        case .makeDirectory(let path): .makeDirectory(path: String(cString: path))
        case .rename(let from, let to):
            .rename(from: String(cString: from), to: String(cString: to))
        case .synchronizeDirectory(let path):
            .synchronizeDirectory(path: String(cString: path))
        case .call(let call): .ask(path: call.takeUnretainedValue().path)
        case .accept, .connect, .receive, .send, .receiveMessage, .closeSocket, .register,
            .unregister, .endInterval:
            nil
        }
    }

    private enum Refusal {
        /// EOPNOTSUPP.
        static let unsupported: Int32 = 95
    }
}

/// What a reactor has instead of a ring while it is stepped.
///
/// `@unchecked Sendable`: touched on the simulation's thread alone, as `Reactor.step` checks.
final class SimulatedRing: @unchecked Sendable {
    let kernel: any SimulatedKernel
    var backend: SimulatedBackend

    init(_ kernel: any SimulatedKernel) {
        self.kernel = kernel
        backend = SimulatedBackend(kernel)
    }
}
