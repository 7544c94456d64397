import Bytes
import CLinux
import Synchronization

/// The reactors of a process: one per core.
public final class ReactorGroup: Sendable {
    public let reactors: [Reactor]
    private let counter = Atomic<Int>(0)

    /// Starts `count` reactors (nil: one per core the process may use). Each is pinned to a core,
    /// unless they are fewer than the cores: then the kernel knows better which are idle.
    public init(
        count: Int? = nil, backend: Reactor.Options.Backend = .automatic,
        pool: BufferPool = .process, registersArena: Bool = false
    ) throws(IOError) {
        let cores = Int(apus_available_cores())
        var reactors: [Reactor] = []
        let count = max(1, count ?? cores)
        for index in 0..<count {
            reactors.append(
                try Reactor.start(
                    .init(
                        backend: backend, core: count < cores ? nil : index % cores, pool: pool,
                        registersArena: registersArena)))
        }
        self.reactors = reactors
    }

    /// The reactors in turn, for work that belongs to none.
    public func next() -> Reactor {
        reactors[counter.wrappingAdd(1, ordering: .relaxed).oldValue % reactors.count]
    }

    public func stop() {
        for reactor in reactors { reactor.stop() }
    }
}
