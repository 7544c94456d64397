import Model

extension CallID {
    /// Bytes that an identity takes at the end of a request's message, little-endian:
    ///
    ///     0 u64 client, high    16 u64 sequence          32 u8 1 if it is a repeat, else 0
    ///     8 u64 client, low     24 u64 answered below
    public static let encodedSize = 33

    public func append(to bytes: inout [UInt8]) {
        for number in [client.high, client.low, sequence, answeredBelow] {
            withUnsafeBytes(of: number.littleEndian) { bytes.append(contentsOf: $0) }
        }
        bytes.append(isRepeat ? 1 : 0)
    }

    /// The identity at the end of `bytes`. Precondition: they are as many.
    public init(endOf bytes: [UInt8]) {
        precondition(bytes.count >= Self.encodedSize, "an identity takes \(Self.encodedSize) bytes")
        let start = bytes.count - Self.encodedSize
        func number(_ place: Int) -> UInt64 {
            bytes.withUnsafeBytes {
                UInt64(
                    littleEndian: $0.loadUnaligned(
                        fromByteOffset: start + 8 * place, as: UInt64.self))
            }
        }
        self.init(
            client: Identity128(high: number(0), low: number(1)), sequence: number(2),
            answeredBelow: number(3), isRepeat: bytes[bytes.count - 1] != 0)
    }
}
