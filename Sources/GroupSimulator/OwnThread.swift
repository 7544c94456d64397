import Glibc

/// Runs `body` on a thread of its own and returns what it returns: tasks of a simulation are run by
/// hand, which a thread that runs tasks already is not meant for.
public func onThreadOfItsOwn<Value: Sendable>(
    _ body: @escaping @Sendable () -> Value
) -> Value {
    let work = ThreadWork(body)
    var id = pthread_t()
    let context = Unmanaged.passRetained(work).toOpaque()
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, 16 << 20)
    defer { pthread_attr_destroy(&attributes) }
    let code = pthread_create(
        &id, &attributes,
        { context in
            Unmanaged<AnyThreadWork>.fromOpaque(context!).takeRetainedValue().run()
            return nil
        }, context)
    precondition(code == 0, "no thread for a simulation: error \(code)")
    pthread_join(id, nil)
    guard let value = work.value else { preconditionFailure("a thread that ended has run") }
    return value
}

private class AnyThreadWork {
    func run() {}
}

private final class ThreadWork<Value>: AnyThreadWork {
    private let body: @Sendable () -> Value
    private(set) var value: Value?

    init(_ body: @escaping @Sendable () -> Value) { self.body = body }

    override func run() { value = body() }
}
