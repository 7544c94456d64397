import CLinux

/// What malloc holds: everything that is no I/O memory.
public enum Heap {
    /// Gives what is free back to the system, in all of malloc's arenas. Takes time in proportion to
    /// what is free, and holds each arena's lock meanwhile: for a process with little to do.
    public static func trim() { apus_trim_heap() }
}
