import Glibc
import RaftDriver
import Reactor
import Simulator

/// A process on a simulated machine, as its kernel: its open files, its clock, and what it has asked
/// for that has not ended.
final class SimulatedProcess: SimulatedKernel {
    /// An operation that was begun.
    struct Running {
        var operation: SimulatedOperation
        /// Its effect is still to come; else `result` is what it gave.
        var isPending: Bool
        var result: Int32
        /// Of a sync: what it makes durable.
        var mark = 0
        var node: SimulatedFiles.Node?
    }

    let machine: SimulatedMachine
    private let simulation: GroupSimulation
    let place: Int
    let life: Int
    private var descriptors: [Int32: SimulatedFiles.Node] = [:]
    private var nextDescriptor: Int32 = 3
    private(set) var running: [UInt64: Running] = [:]
    /// In the order in which they began.
    private(set) var order: [UInt64] = []
    private let clockRate: Double
    private let clockStart: UInt64
    private let began: Microseconds
    private var generator: SeededGenerator
    /// It does nothing any more that anybody would notice; it is let run out.
    private(set) var isDead = false
    /// The clock from its death on, so that its last sleeps end.
    var clockAfterDeath: UInt64 = 0
    /// It is to die once the step under way is over, in this way.
    var doom: Death?
    /// A group that was opened when nobody waited for it any more.
    var leftOpen: MetadataGroup<RegisterMachine>?

    init(
        on machine: SimulatedMachine, of simulation: GroupSimulation, place: Int, life: Int,
        clockRate: Double, generator: SeededGenerator
    ) {
        self.machine = machine
        self.simulation = simulation
        self.place = place
        self.life = life
        self.clockRate = clockRate
        self.generator = generator
        began = simulation.queue.now
        clockStart = self.generator.next() >> 20 | 1 << 40
    }

    // MARK: Clock

    var now: MonotonicTime {
        if isDead { return MonotonicTime(nanoseconds: clockAfterDeath) }
        let passed = Double(simulation.queue.now - began) * clockRate * 1000
        return MonotonicTime(nanoseconds: clockStart + UInt64(passed))
    }

    /// How long it is until this clock shows `time`.
    func wait(until time: MonotonicTime) -> Microseconds {
        let now = now.nanoseconds
        guard time.nanoseconds > now else { return 0 }
        return Microseconds(Double(time.nanoseconds - now) / clockRate / 1000) + 1
    }

    func randomNumber() -> UInt64 { generator.next() }

    /// The process is over. What it had begun and was not done never is.
    func die() {
        clockAfterDeath = now.nanoseconds
        isDead = true
    }

    // MARK: Operations

    func begin(_ operation: SimulatedOperation, number: UInt64) {
        order.append(number)
        var begun = Running(operation: operation, isPending: true, result: 0)
        guard !isDead, doom == nil else {
            begun.isPending = false
            begun.result = -EIO
            running[number] = begun
            return
        }
        let isPersistPoint = Self.isPersistPoint(operation)
        if isPersistPoint, simulation.diesAtPersistPoint(self) {
            running[number] = begun
            return
        }
        if let code = simulation.failure(of: operation, on: machine, place) {
            begun.isPending = false
            begun.result = -code
        } else {
            begun.node = target(of: operation)
            if let node = begun.node { begun.mark = machine.files.mark(node) }
            // Some have their effect when they are begun, some when they end: a crash in between
            // finds it or not.
            if Self.isChange(operation), simulation.chance.disk.chance(0.5) {
                begun.isPending = false
                begun.result = carryOut(operation, begun)
            }
        }
        running[number] = begun
        simulation.schedule(operation, number: number, of: self)
    }

    /// An operation ends: the result that its caller gets.
    func end(_ number: UInt64) -> Int32? {
        guard let ended = running.removeValue(forKey: number) else { return nil }
        order.removeAll { $0 == number }
        return ended.isPending ? carryOut(ended.operation, ended) : ended.result
    }

    /// Whatever is under way when the process is dead ends with an error, so that its tasks end.
    func abandon() -> [UInt64] {
        defer {
            order = []
            running = [:]
        }
        return order
    }

    private func target(of operation: SimulatedOperation) -> SimulatedFiles.Node? {
        switch operation {
        case .synchronize(let descriptor): descriptors[descriptor]
        case .synchronizeDirectory(let path): machine.files.find(path)
        default: nil
        }
    }

    private static func isPersistPoint(_ operation: SimulatedOperation) -> Bool {
        switch operation {
        case .write, .synchronize, .synchronizeDirectory, .rename, .truncate, .remove: true
        default: false
        }
    }

    /// Whether it has an effect that does not wait for its end.
    private static func isChange(_ operation: SimulatedOperation) -> Bool {
        switch operation {
        case .write, .rename, .truncate, .remove, .allocate, .makeDirectory: true
        default: false
        }
    }

    private func carryOut(_ operation: SimulatedOperation, _ begun: Running) -> Int32 {
        let files = machine.files
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
            guard let node = begun.node else { return -ENOENT }
            files.synchronize(node, through: begun.mark)
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
                nextDescriptor += 1
                descriptors[nextDescriptor] = node
                return nextDescriptor
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
        guard let names = machine.files.list(path) else {
            return .failure(IOError(code: ENOENT, operation: "opendir", path: path))
        }
        return .success(names)
    }

    func status(_ path: String) -> Result<FileStatus?, IOError> {
        guard let node = machine.files.find(path) else { return .success(nil) }
        return .success(
            FileStatus(
                size: node.content.count, isDirectory: node.isDirectory,
                allocated: node.content.count))
    }

    func size(_ descriptor: Int32, path: String) -> Result<Int, IOError> {
        guard let node = descriptors[descriptor] else {
            return .failure(IOError(code: EBADF, operation: "fstat", path: path))
        }
        return .success(node.content.count)
    }

    func space(_ path: String) -> Result<FileSystemStatus, IOError> {
        .success(
            FileSystemStatus(capacity: 1 << 40, available: machine.isFull ? 0 : 1 << 39))
    }
}

/// How a process ends.
enum Death: String {
    /// Killed: the kernel keeps what it had written.
    case killed
    /// With the power of its machine: what was not synced is lost, torn or there.
    case powerless
}
