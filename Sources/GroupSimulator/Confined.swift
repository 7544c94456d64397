/// Something of a simulation, in the hands of code that asks for `Sendable`: everything of one runs on
/// one thread, where each reactor checks that it is.
struct Confined<Value>: Sendable {
    nonisolated(unsafe) let value: Value

    init(_ value: Value) { self.value = value }
}
