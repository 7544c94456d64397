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
    private var open: OpenFiles
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
        open = OpenFiles(of: machine.files)
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
            begun.node = open.target(of: operation)
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
        open.carryOut(operation, on: begun.node, through: begun.mark)
    }

    // MARK: Questions

    func list(_ path: String) -> Result<[String], IOError> { open.list(path) }

    func status(_ path: String) -> Result<FileStatus?, IOError> { .success(open.status(path)) }

    func size(_ descriptor: Int32, path: String) -> Result<Int, IOError> {
        open.size(descriptor, path: path)
    }

    func space(_ path: String) -> Result<FileSystemStatus, IOError> {
        .success(OpenFiles.space(isFull: machine.isFull))
    }
}

/// How a process ends.
enum Death: String {
    /// Killed: the kernel keeps what it had written.
    case killed
    /// With the power of its machine: what was not synced is lost, torn or there.
    case powerless
}
