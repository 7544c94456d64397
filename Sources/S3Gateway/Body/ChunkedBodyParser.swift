/// Why an `aws-chunked` body was refused.
struct ChunkedBodyError: Error, Equatable {
    enum Reason: Equatable {
        /// The framing is not as published.
        case malformed
        /// A trailer is not as published.
        case malformedTrailer
        /// A bound was passed.
        case tooLarge
    }
    var reason: Reason
    var message: String
}

/// Takes the `aws-chunked` framing off a body, piece by piece as it arrives.
///
/// A pure state machine: it is handed pieces of any size and answers with events whose payload is
/// a range of the piece at hand, so that no payload byte is copied or kept.
///
///     chunk    = hex-size [";chunk-signature=" 64 hex] CRLF size bytes CRLF
///     body     = *chunk "0" [";chunk-signature=" 64 hex] CRLF *trailer CRLF
///     trailer  = name ":" value (CRLF / LF)
///
/// Invariants: bytes are given out in order and once; after an error it is not used again; memory
/// is bounded by `Limits.lineBytes`.
struct ChunkedBodyParser {
    enum Limits {
        /// The longest chunk header or trailer line.
        static let lineBytes = 1024
        static let trailers = 16
    }

    /// What the framing says next.
    enum Event: Equatable {
        /// A chunk of `size` bytes begins; size 0 is the last one.
        case chunk(size: Int, signature: [UInt8]?)
        /// Payload: this range of the piece handed in.
        case data(Range<Int>)
        /// All bytes of the chunk have been given out. Also follows the last, empty chunk.
        case chunkEnd
        case trailer(name: String, value: String)
        /// The body is over.
        case end
    }

    private enum State: Equatable {
        case header
        case data(remaining: Int)
        case dataCarriageReturn
        case dataLineFeed
        /// The empty chunk's end is still to be told.
        case lastChunkEnd
        case trailers
        case finished
    }

    let isSigned: Bool
    let expectsTrailers: Bool
    /// The most bytes that a chunk may announce.
    let sizeLimit: Int
    private var state = State.header
    private var line: [UInt8] = []
    private var trailerCount = 0
    private var sawTrailerSignature = false
    private var emptyLines = 0

    /// - Parameters:
    ///   - isSigned: each chunk carries a signature, and the trailers one of their own.
    ///   - expectsTrailers: trailers may follow the last chunk.
    init(isSigned: Bool, expectsTrailers: Bool, sizeLimit: Int) {
        precondition(sizeLimit >= 0, "a limit of bytes is not negative")
        self.isSigned = isSigned
        self.expectsTrailers = expectsTrailers
        self.sizeLimit = sizeLimit
    }

    static let trailerSignatureName = "x-amz-trailer-signature"

    /// The next event of `piece` from `position` on, which moves forward; nil when the piece is
    /// used up.
    mutating func next(
        in piece: UnsafeRawBufferPointer, at position: inout Int
    ) throws(ChunkedBodyError) -> Event? {
        precondition(position >= 0 && position <= piece.count, "a position outside of its piece")
        while true {
            switch state {
            case .lastChunkEnd:
                state = .trailers
                return .chunkEnd
            case .header:
                guard try readLine(piece, &position, needsCarriageReturn: true) else { return nil }
                return try header()
            case .data(let remaining):
                guard position < piece.count else { return nil }
                let count = min(remaining, piece.count - position)
                let range = position..<position + count
                position += count
                state =
                    remaining == count ? .dataCarriageReturn : .data(remaining: remaining - count)
                return .data(range)
            case .dataCarriageReturn:
                guard try expect(0x0D, piece, &position) else { return nil }
                state = .dataLineFeed
            case .dataLineFeed:
                guard try expect(0x0A, piece, &position) else { return nil }
                state = .header
                return .chunkEnd
            case .trailers:
                guard try readLine(piece, &position, needsCarriageReturn: false) else { return nil }
                if let event = try trailerLine() { return event }
            case .finished:
                guard position == piece.count else {
                    throw malformed("there are bytes behind the last chunk")
                }
                return nil
            }
        }
    }

    /// Whether the body may end here.
    ///
    /// Some clients leave out the empty line behind the trailers, or send it before them; nothing
    /// can be missing then but what the trailers' reader will miss.
    var isComplete: Bool {
        switch state {
        case .finished: true
        case .trailers: expectsTrailers && line.isEmpty && trailerCount + emptyLines > 0
        default: false
        }
    }

    /// Adds to `line` up to its end. Returns whether the end was reached; the line is then without
    /// its line break.
    private mutating func readLine(
        _ piece: UnsafeRawBufferPointer, _ position: inout Int, needsCarriageReturn: Bool
    ) throws(ChunkedBodyError) -> Bool {
        while position < piece.count {
            let byte = piece[position]
            position += 1
            guard byte == 0x0A else {
                guard line.count < Limits.lineBytes else {
                    throw ChunkedBodyError(
                        reason: .tooLarge,
                        message: "a chunk header or trailer is longer than "
                            + "\(Limits.lineBytes) bytes")
                }
                line.append(byte)
                continue
            }
            if line.last == 0x0D {
                line.removeLast()
            } else if needsCarriageReturn {
                throw malformed("a chunk header must end with CR LF")
            }
            return true
        }
        return false
    }

    private func expect(
        _ byte: UInt8, _ piece: UnsafeRawBufferPointer, _ position: inout Int
    ) throws(ChunkedBodyError) -> Bool {
        guard position < piece.count else { return false }
        guard piece[position] == byte else {
            throw malformed("a chunk's data must be followed by CR LF")
        }
        position += 1
        return true
    }

    /// Interprets `line` as a chunk header.
    private mutating func header() throws(ChunkedBodyError) -> Event {
        defer { line.removeAll(keepingCapacity: true) }
        let digits = line.prefix { Hex.value(of: $0) != nil }
        guard !digits.isEmpty, digits.count <= 15 else {
            throw malformed("a chunk must begin with its size in hexadecimal")
        }
        let size = digits.reduce(0) { $0 << 4 | Int(Hex.value(of: $1) ?? 0) }
        guard size <= sizeLimit else {
            throw ChunkedBodyError(
                reason: .tooLarge,
                message: "a chunk announces \(size) bytes, the limit is \(sizeLimit)")
        }
        let signature = try chunkSignature(line[digits.endIndex...])
        state = size == 0 ? .lastChunkEnd : .data(remaining: size)
        return .chunk(size: size, signature: signature)
    }

    private func chunkSignature(
        _ rest: ArraySlice<UInt8>
    ) throws(ChunkedBodyError) -> [UInt8]? {
        guard isSigned else {
            guard rest.isEmpty else {
                throw malformed("an unsigned chunk's header is its size alone")
            }
            return nil
        }
        let prefix = Array(";chunk-signature=".utf8)
        guard rest.starts(with: prefix), rest.count == prefix.count + 64,
            let bytes = Hex.decode(String(decoding: rest.dropFirst(prefix.count), as: UTF8.self))
        else {
            throw malformed("a signed chunk's header is size;chunk-signature=64 hex digits")
        }
        return bytes
    }

    /// Interprets `line` as a trailer or the empty line behind the trailers; nil for an empty line
    /// that means nothing.
    private mutating func trailerLine() throws(ChunkedBodyError) -> Event? {
        defer { line.removeAll(keepingCapacity: true) }
        if line.isEmpty {
            // Some clients send an empty line before the trailers, or before their signature.
            let mayGoOn = trailerCount == 0 || (isSigned && !sawTrailerSignature)
            if expectsTrailers, mayGoOn, emptyLines == 0 {
                emptyLines += 1
                return nil
            }
            state = .finished
            return .end
        }
        guard expectsTrailers else { throw malformed("there are trailers, and none was announced") }
        guard let text = String(validating: line, as: UTF8.self),
            let colon = text.firstIndex(of: ":"), colon != text.startIndex,
            trailerCount < Limits.trailers
        else {
            throw ChunkedBodyError(
                reason: .malformedTrailer, message: "a trailer is written name:value")
        }
        trailerCount += 1
        let name = text[..<colon].lowercased()
        if name == Self.trailerSignatureName { sawTrailerSignature = true }
        return .trailer(name: name, value: trimmingSpaces(text[text.index(after: colon)...]))
    }

    private func malformed(_ message: String) -> ChunkedBodyError {
        ChunkedBodyError(reason: .malformed, message: message)
    }
}
