import Bytes
import CLinux
import Glibc
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

    /// Of reactors that run already.
    public init(_ reactors: [Reactor]) {
        precondition(!reactors.isEmpty, "a group has a reactor")
        self.reactors = reactors
    }

    /// The reactor that the calling thread is, or the next: work that is begun there needs no
    /// change of thread.
    public func here() -> Reactor { reactors[hereIndex()] }

    /// The index of `here()` in `reactors`.
    public func hereIndex() -> Int {
        let own = UInt(pthread_self())
        for index in reactors.indices where reactors[index].thread.load(ordering: .relaxed) == own {
            return index
        }
        return counter.wrappingAdd(1, ordering: .relaxed).oldValue % reactors.count
    }

    /// The reactors in turn, for work that belongs to none.
    public func next() -> Reactor {
        reactors[counter.wrappingAdd(1, ordering: .relaxed).oldValue % reactors.count]
    }

    public func stop() {
        for reactor in reactors { reactor.stop() }
    }
}
