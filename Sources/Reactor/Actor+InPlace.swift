extension Actor {
    /// Runs `body` isolated to this actor, at once: in a task that runs on the actor's reactor
    /// already but is not isolated to it.
    ///
    /// `await`ing the actor instead would have the task leave and enter executors for a step that
    /// takes less time than that. Precondition: the calling thread is the reactor's that the actor
    /// names as its executor.
    @inlinable
    public nonisolated func inPlace<Result: Sendable>(
        _ body: (isolated Self) -> Result
    ) -> Result {
        assumeIsolated(body)
    }

    /// The same with `value` for `body`, which then need not capture anything: nothing is
    /// allocated, where `assumeIsolated` allocates twice.
    @inlinable
    @inline(__always)
    public nonisolated func inPlace<Value, Result: Sendable>(
        with value: Value, _ body: (isolated Self, Value) -> Result
    ) -> Result {
        preconditionIsolated("not on the thread of the actor's reactor")
        // An isolated parameter is passed as any other, which `assumeIsolated` relies on too. The
        // function is held in structures so that it keeps its form: as a generic value it would be
        // wrapped on the way in and on the way out.
        return withoutActuallyEscaping(body) { body in
            unsafeBitCast(
                IsolatedFunction(body: body), to: PlainFunction<Self, Value, Result>.self
            ).body(self, value)
        }
    }
}

@usableFromInline
struct IsolatedFunction<Isolation: Actor, Value, Result> {
    @usableFromInline let body: (isolated Isolation, Value) -> Result

    @inlinable
    init(body: @escaping (isolated Isolation, Value) -> Result) { self.body = body }
}

@usableFromInline
struct PlainFunction<Isolation: Actor, Value, Result> {
    @usableFromInline let body: (Isolation, Value) -> Result
}
