import Glibc

// Tasks of a simulation are run by hand, which a thread that runs tasks already is not meant for.

/// Runs `body` on a thread of its own and returns what it returns; waits for it.
public func onThreadOfItsOwn<Value: Sendable>(
    _ body: @escaping @Sendable () -> Value
) -> Value {
    let result = ThreadResult<Value>()
    let thread = startThread { result.value = body() }
    pthread_join(thread, nil)
    guard let value = result.value else { preconditionFailure("a thread that ended has run") }
    return value
}

/// The same, and suspends until it is done.
public func onThreadOfItsOwn<Value: Sendable>(
    _ body: @escaping @Sendable () -> Value
) async -> Value {
    await withCheckedContinuation { waiter in
        let thread = startThread { waiter.resume(returning: body()) }
        pthread_detach(thread)
    }
}

/// Written by the thread, and read when it was joined.
private final class ThreadResult<Value: Sendable>: Sendable {
    nonisolated(unsafe) var value: Value?
}

private final class ThreadWork: Sendable {
    let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

private func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t {
    var id = pthread_t()
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, 16 << 20)
    defer { pthread_attr_destroy(&attributes) }
    let context = Unmanaged.passRetained(ThreadWork(body)).toOpaque()
    let code = pthread_create(
        &id, &attributes,
        { context in
            guard let context else { return nil }
            Unmanaged<ThreadWork>.fromOpaque(context).takeRetainedValue().body()
            return nil
        }, context)
    precondition(code == 0, "no thread for a simulation: error \(code)")
    return id
}
