import Synchronization

/// A number that only grows: operations, bytes, errors. From any thread, without a lock.
public final class Counter: Sendable {
    private let number = Atomic<UInt64>(0)

    /// A counter at 0.
    public init() {}

    /// The present count.
    public var value: UInt64 { number.load(ordering: .relaxed) }

    /// Counts `amount` more.
    public func add(_ amount: UInt64 = 1) { number.wrappingAdd(amount, ordering: .relaxed) }
}

/// A number that goes up and down: queue lengths, operations in flight. From any thread, without
/// a lock.
public final class Gauge: Sendable {
    private let number = Atomic<Int>(0)

    /// A gauge at 0.
    public init() {}

    /// The present value.
    public var value: Int { number.load(ordering: .relaxed) }

    /// Moves the value by `amount`, down if it is negative.
    public func add(_ amount: Int) { number.wrappingAdd(amount, ordering: .relaxed) }

    /// Makes `value` the value.
    public func set(_ value: Int) { number.store(value, ordering: .relaxed) }
}
