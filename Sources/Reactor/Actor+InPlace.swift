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
}
