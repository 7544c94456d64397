/// Appends integers, least significant byte first.
struct ByteWriter {
    private(set) var bytes: [UInt8] = []

    mutating func append<T: FixedWidthInteger>(_ value: T) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    mutating func append(_ list: [UInt8]) { bytes.append(contentsOf: list) }

    /// Appends a count or offset that is known not to be negative.
    mutating func append64(_ value: Int) {
        precondition(value >= 0, "offsets and lengths are not negative")
        append(UInt64(value))
    }

    /// Precondition: the value fits into 32 bits.
    mutating func append32(_ value: Int) {
        precondition(value >= 0 && value <= UInt32.max, "a length of 4 GiB or more")
        append(UInt32(value))
    }
}

/// Takes integers off bytes, least significant byte first; throws where they end.
struct ByteReader {
    private let bytes: UnsafeRawBufferPointer
    private(set) var position = 0
    private let what: String

    /// - Parameter what: the thing that is read, for error texts.
    init(_ bytes: UnsafeRawBufferPointer, of what: String) {
        self.bytes = bytes
        self.what = what
    }

    var remaining: Int { bytes.count - position }

    mutating func read<T: FixedWidthInteger>(_: T.Type) throws(FormatError) -> T {
        guard remaining >= MemoryLayout<T>.size else { throw .truncated(what) }
        let value = bytes.loadUnaligned(fromByteOffset: position, as: T.self)
        position += MemoryLayout<T>.size
        return T(littleEndian: value)
    }

    /// An offset or length written as 64 bits.
    mutating func read64() throws(FormatError) -> Int {
        // Half of the largest, so that sums of two do not overflow.
        let value = try read(UInt64.self)
        guard value <= UInt64(Int.max / 2) else {
            throw .invalid("the \(what) has the impossible length or offset \(value)")
        }
        return Int(value)
    }

    mutating func read32() throws(FormatError) -> Int { Int(try read(UInt32.self)) }

    /// `count` checksums.
    mutating func readChecksums(_ count: Int) throws(FormatError) -> [UInt32] {
        guard count >= 0, remaining / 4 >= count else { throw .truncated(what) }
        var sums: [UInt32] = []
        sums.reserveCapacity(count)
        for _ in 0..<count { sums.append(try read(UInt32.self)) }
        return sums
    }

    mutating func readBytes(_ count: Int) throws(FormatError) -> [UInt8] {
        guard count >= 0, remaining >= count else { throw .truncated(what) }
        defer { position += count }
        return Array(bytes[position..<position + count])
    }
}

extension [UInt8] {
    /// As `withUnsafeBytes`, for bodies that throw a typed error.
    func withReader<R>(
        of what: String, _ body: (inout ByteReader) throws(FormatError) -> R
    ) throws(FormatError) -> R {
        let result = withUnsafeBytes { bytes -> Result<R, FormatError> in
            var reader = ByteReader(bytes, of: what)
            do throws(FormatError) { return .success(try body(&reader)) } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}
