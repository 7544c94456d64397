/// A set of replica indexes, which are 1…32 (`ReplicationConfig.maximumWidth`), in one word: a
/// container has three, and a cluster millions of containers.
///
/// What is no replica index is not kept.
public struct ReplicaIndexes: SetAlgebra, Hashable, Sendable {
    private var bits: UInt64 = 0

    public init() {}

    private static func bit(_ index: Int) -> UInt64 {
        (0..<64).contains(index) ? 1 << UInt64(index) : 0
    }

    public func contains(_ index: Int) -> Bool { bits & Self.bit(index) != 0 }

    public var isEmpty: Bool { bits == 0 }

    @discardableResult
    public mutating func insert(
        _ index: Int
    ) -> (inserted: Bool, memberAfterInsert: Int) {
        defer { bits |= Self.bit(index) }
        return (!contains(index), index)
    }

    @discardableResult
    public mutating func remove(_ index: Int) -> Int? {
        defer { bits &= ~Self.bit(index) }
        return contains(index) ? index : nil
    }

    @discardableResult
    public mutating func update(with index: Int) -> Int? {
        insert(index).inserted ? nil : index
    }

    public mutating func formUnion(_ other: Self) { bits |= other.bits }
    public mutating func formIntersection(_ other: Self) { bits &= other.bits }
    public mutating func formSymmetricDifference(_ other: Self) { bits ^= other.bits }

    public func union(_ other: Self) -> Self {
        var result = self
        result.formUnion(other)
        return result
    }

    public func intersection(_ other: Self) -> Self {
        var result = self
        result.formIntersection(other)
        return result
    }

    public func symmetricDifference(_ other: Self) -> Self {
        var result = self
        result.formSymmetricDifference(other)
        return result
    }
}

extension ReplicaIndexes: Sequence {
    /// In order.
    public struct Iterator: IteratorProtocol {
        fileprivate var bits: UInt64

        public mutating func next() -> Int? {
            guard bits != 0 else { return nil }
            defer { bits &= bits - 1 }
            return bits.trailingZeroBitCount
        }
    }

    public func makeIterator() -> Iterator { Iterator(bits: bits) }

    /// As messages have them, in order.
    init(_ indexes: [UInt32]) {
        for index in indexes { insert(Int(index)) }
    }

    var message: [UInt32] { map { UInt32($0) } }
}

extension ReplicaIndexes: CustomStringConvertible {
    public var description: String { Array(self).description }
}
