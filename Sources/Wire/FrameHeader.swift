import Checksum
import Model

/// The fixed head of every frame of the native protocol: 64 bytes, little-endian.
///
///     0  u32 magic "APUS"         24 u32 message bytes       48 u32 credit bytes
///     4  u16 version              28 u32 payload bytes       52 u64 offset in shared memory
///     6  u8  kind                 32 u32 deadline, ms        60 u32 CRC32C of bytes 0..<60
///     7  u8  payload place        36 u32 CRC32C of token and message
///     8  u64 request ID           40 u64 trace ID
///     16 u16 method
///     18 u16 status; of a request the class of its I/O, and flags
///     20 u32 token bytes
///
/// Behind it come the token, the message and the payload, nothing between them. The payload is
/// covered by checksums inside of the message where its bytes matter. The first eight bytes mean
/// the same in every version, so that a peer of another version can be told apart from noise.
///
/// Between processes of one machine a payload may lie in memory that the client shares instead
/// (`PayloadPlace`); then nothing of it follows.
public struct FrameHeader: Hashable, Sendable {
    public enum Kind: UInt8, Hashable, Sendable, CaseIterable {
        /// First frame in each direction. The message is the sender's name; `credit` the request
        /// payload bytes it takes in flight.
        case hello = 1
        case request = 2
        case response = 3
        /// The caller no longer waits for `requestID`.
        case cancel = 4
        /// The connection ends; `status` and message say why.
        case goodbye = 5
    }

    /// Where the payload is.
    public enum PayloadPlace: UInt8, Hashable, Sendable, CaseIterable {
        /// Behind the message.
        case inline = 0
        /// In the client's shared memory, at `sharedOffset`.
        case shared = 1
        /// Nowhere: a request gives room for its answer's payload, `payloadBytes` of the client's
        /// shared memory at `sharedOffset`.
        case landing = 2
    }

    public static let size = 64
    /// Of the protocol: 2 since checksums are of 4 KiB.
    public static let version: UInt16 = 2
    static let magic: UInt32 = 0x5355_5041

    /// What is said of a request beside its class, bits of the byte at 19. A request bears none
    /// that its server has not said in its hello to know.
    public enum Flag {
        /// The message ends with the identity of the call (`CallID`), which counts among its bytes.
        public static let call: UInt8 = 1
        /// Nobody waits for an answer: none is sent. The request's ID is 0, and it has no payload.
        public static let post: UInt8 = 2
        /// Any member of the group may answer; without it the one that leads does.
        public static let anyMember: UInt8 = 4
        static let all = call | post | anyMember
    }

    /// What a server takes beyond what every program of this version does: bits of the method of
    /// its hello, which programs of before leave 0 and do not look at.
    public enum Feature {
        /// `Flag.call`.
        public static let calls: UInt16 = 1
        /// `Flag.post`.
        public static let posts: UInt16 = 2
        /// `Flag.anyMember`.
        public static let anyMember: UInt16 = 4
        /// What this program takes.
        public static let all = calls | posts | anyMember
    }

    public enum Limits {
        public static let tokenBytes = 64 << 10
        public static let messageBytes = 32 << 20
        public static let payloadBytes = 32 << 20
    }

    public var kind: Kind
    public var requestID: UInt64
    public var method: UInt16
    /// 0, or the `StoreError.Code` of a failure whose text is the message. A request has none.
    public var status: UInt16
    /// Of a request: the number of the I/O class that it is of; 0, also from programs that do not
    /// know of it: a client waits. 0 of all other frames.
    public var ioClass: UInt8
    /// Of a request: bits of `Flag`. 0 of all other frames.
    public var flags: UInt8
    public var tokenBytes: Int
    public var messageBytes: Int
    public var payloadBytes: Int
    /// How long the caller waits, from when the frame was sent; 0: not limited.
    public var deadlineMilliseconds: UInt32
    public var bodyChecksum: UInt32
    public var traceID: UInt64
    public var credit: Int
    public var payloadPlace: PayloadPlace
    /// Bytes from the start of the shared memory; 0 for an inline payload.
    public var sharedOffset: Int

    public init(
        kind: Kind, requestID: UInt64 = 0, method: UInt16 = 0, status: UInt16 = 0,
        ioClass: UInt8 = 0, flags: UInt8 = 0, tokenBytes: Int = 0, messageBytes: Int = 0,
        payloadBytes: Int = 0, deadlineMilliseconds: UInt32 = 0, bodyChecksum: UInt32 = 0,
        traceID: UInt64 = 0, credit: Int = 0, payloadPlace: PayloadPlace = .inline,
        sharedOffset: Int = 0
    ) {
        self.kind = kind
        self.requestID = requestID
        self.method = method
        self.status = status
        self.ioClass = ioClass
        self.flags = flags
        self.tokenBytes = tokenBytes
        self.messageBytes = messageBytes
        self.payloadBytes = payloadBytes
        self.deadlineMilliseconds = deadlineMilliseconds
        self.bodyChecksum = bodyChecksum
        self.traceID = traceID
        self.credit = credit
        self.payloadPlace = payloadPlace
        self.sharedOffset = sharedOffset
    }

    /// Bytes of token and message.
    public var bodyBytes: Int { tokenBytes + messageBytes }
    /// Bytes of payload that follow the message on the connection.
    public var inlinePayloadBytes: Int { payloadPlace == .inline ? payloadBytes : 0 }

    /// Writes the 64 bytes. Precondition: `target` has at least as many.
    public func write(to target: UnsafeMutableRawBufferPointer) {
        precondition(target.count >= Self.size, "a frame header takes 64 bytes")
        func put(_ value: some FixedWidthInteger, at offset: Int) {
            target.storeBytes(of: value.littleEndian, toByteOffset: offset, as: type(of: value))
        }
        put(Self.magic, at: 0)
        put(Self.version, at: 4)
        put(kind.rawValue, at: 6)
        put(payloadPlace.rawValue, at: 7)
        put(requestID, at: 8)
        put(method, at: 16)
        put(kind == .request ? UInt16(flags) << 8 | UInt16(ioClass) : status, at: 18)
        put(UInt32(tokenBytes), at: 20)
        put(UInt32(messageBytes), at: 24)
        put(UInt32(payloadBytes), at: 28)
        put(deadlineMilliseconds, at: 32)
        put(bodyChecksum, at: 36)
        put(traceID, at: 40)
        put(UInt32(credit), at: 48)
        put(UInt64(sharedOffset), at: 52)
        put(CRC32C.of(UnsafeRawBufferPointer(rebasing: target[0..<60])), at: 60)
    }

    /// Reads and checks 64 bytes. Precondition: `bytes` has at least as many.
    public init(parsing bytes: UnsafeRawBufferPointer) throws(FrameError) {
        precondition(bytes.count >= Self.size, "a frame header takes 64 bytes")
        func get<T: FixedWidthInteger>(_ offset: Int, as type: T.Type) -> T {
            T(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: type))
        }
        let magic = get(0, as: UInt32.self)
        guard magic == Self.magic else { throw .notAFrame(magic) }
        let version = get(4, as: UInt16.self)
        guard version == Self.version else { throw .version(version) }
        let checksum = CRC32C.of(UnsafeRawBufferPointer(rebasing: bytes[0..<60]))
        guard checksum == get(60, as: UInt32.self) else { throw .headerChecksum }
        let rawKind = get(6, as: UInt8.self)
        guard let kind = Kind(rawValue: rawKind) else { throw .kind(rawKind) }
        let rawPlace = get(7, as: UInt8.self)
        guard let place = PayloadPlace(rawValue: rawPlace) else { throw .place(rawPlace) }
        let offset = get(52, as: UInt64.self)
        guard offset <= UInt64(Int.max) else { throw .shared("offset \(offset)") }
        let word = get(18, as: UInt16.self)
        let isRequest = kind == .request
        self.init(
            kind: kind, requestID: get(8, as: UInt64.self), method: get(16, as: UInt16.self),
            status: isRequest ? 0 : word,
            ioClass: isRequest ? UInt8(truncatingIfNeeded: word) : 0,
            flags: isRequest ? UInt8(word >> 8) : 0,
            tokenBytes: Int(get(20, as: UInt32.self)),
            messageBytes: Int(get(24, as: UInt32.self)),
            payloadBytes: Int(get(28, as: UInt32.self)),
            deadlineMilliseconds: get(32, as: UInt32.self),
            bodyChecksum: get(36, as: UInt32.self), traceID: get(40, as: UInt64.self),
            credit: Int(get(48, as: UInt32.self)), payloadPlace: place, sharedOffset: Int(offset))
        guard tokenBytes <= Limits.tokenBytes else {
            throw .length("token", tokenBytes, limit: Limits.tokenBytes)
        }
        guard messageBytes <= Limits.messageBytes else {
            throw .length("message", messageBytes, limit: Limits.messageBytes)
        }
        guard payloadBytes <= Limits.payloadBytes else {
            throw .length("payload", payloadBytes, limit: Limits.payloadBytes)
        }
        guard flags & ~Flag.all == 0 else { throw .flags(flags) }
        guard flags & Flag.call == 0 || messageBytes >= CallID.encodedSize else {
            throw .callCutOff(messageBytes)
        }
        guard flags & Flag.post == 0 || payloadBytes == 0 else {
            throw .length("payload of a post", payloadBytes, limit: 0)
        }
    }
}

/// Why bytes on a connection are no frame that this end takes.
public enum FrameError: Error, Hashable, Sendable, CustomStringConvertible {
    case notAFrame(UInt32)
    case version(UInt16)
    case headerChecksum
    case bodyChecksum
    case kind(UInt8)
    /// A request with flags that this end did not say to know.
    case flags(UInt8)
    /// A message of so many bytes that is to end with the identity of its call.
    case callCutOff(Int)
    case length(String, Int, limit: Int)
    case unexpected(FrameHeader.Kind)
    /// A request under the identity of one that is not answered.
    case repeated(UInt64)
    case place(UInt8)
    /// A payload in shared memory that is not there.
    case shared(String)

    public var description: String {
        switch self {
        case .notAFrame(let magic):
            "not the native protocol: a frame begins with 'APUS', not with 0x"
                + String(magic, radix: 16)
        case .version(let version):
            "the other end speaks protocol version \(version), this one \(FrameHeader.version)"
        case .headerChecksum: "the checksum of a frame's header does not match its bytes"
        case .bodyChecksum: "the checksum of a frame's message does not match its bytes"
        case .kind(let kind): "frame kind \(kind) is not known: 1 to 5 are"
        case .flags(let flags):
            "a request has flags 0x\(String(flags, radix: 16)), of which some are not known"
        case .callCutOff(let bytes):
            "a message of \(bytes) bytes has no room for the identity of its call, "
                + "\(CallID.encodedSize) bytes"
        case .length(let part, let length, let limit):
            "a frame's \(part) of \(length) bytes is over the limit of \(limit)"
        case .place(let place): "payload place \(place) is not known: 0 to 2 are"
        case .shared(let what): "a payload in shared memory that this connection lacks: \(what)"
        case .repeated(let id): "request \(id) came again before it was answered"
        case .unexpected(let kind): "a frame of kind \(kind) has no place here"
        }
    }

    public var storeError: StoreError {
        if case .version = self { return StoreError(.versionMismatch, description) }
        return StoreError(.connection, description)
    }
}
