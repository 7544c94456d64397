import Glibc

/// Why a request failed.
enum RequestFailure: Error, Hashable, CustomStringConvertible {
    /// The peer closed the connection before it answered anything.
    case closedEarly
    case system(operation: String, code: Int32)
    case badAnswer(String)
    case status(Int)
    /// The body differs from what was stored, at this byte of the object.
    case mismatch

    var description: String {
        switch self {
        case .closedEarly: "closed before the answer"
        case .system(let operation, let code): "\(operation): \(String(cString: strerror(code)))"
        case .badAnswer(let text): "bad answer: \(text)"
        case .status(let code): "status \(code)"
        case .mismatch: "bytes differ"
        }
    }
}

/// What one request took, in nanoseconds.
struct RequestTiming {
    var total: UInt64 = 0
    /// Until the first byte of the body (or the end of the headers where there is no body).
    var firstByte: UInt64 = 0
    /// Until `Options.mark` bytes of the body had come.
    var mark: UInt64 = 0
    var bytes = 0
}

/// The monotonic clock.
func nanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// A keep-alive HTTP/1.1 connection on a blocking socket. Used by one thread.
struct Connection: ~Copyable {
    private let descriptor: Int32
    private let buffer: UnsafeMutableRawBufferPointer
    /// Bytes of `buffer` that hold received data not yet consumed.
    private var start = 0
    private var end = 0
    private(set) var isUsable = true

    /// Bytes received at once.
    static let bufferBytes = 256 << 10
    /// The longest head of an answer.
    static let headBytes = 64 << 10
    /// How long a peer may be silent.
    static let timeoutSeconds = 120

    private static let sendFlags = Int32(truncatingIfNeeded: Int(MSG_NOSIGNAL))

    init(host: String, port: Int) throws(RequestFailure) {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw .system(operation: "socket", code: errno) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port)).bigEndian
        guard inet_pton(AF_INET, host, &address.sin_addr) == 1 else {
            close(descriptor)
            throw .badAnswer("\(host) is not an IPv4 address")
        }
        var one: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
        var timeout = timeval(tv_sec: Connection.timeoutSeconds, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, size)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, size)
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            let code = errno
            close(descriptor)
            throw .system(operation: "connect", code: code)
        }
        self.descriptor = descriptor
        buffer = .allocate(byteCount: Connection.bufferBytes, alignment: 4096)
    }

    deinit {
        close(descriptor)
        buffer.deallocate()
    }

    /// Sends `request` and receives the whole answer.
    /// - Parameters:
    ///   - mark: the timing notes when so many bytes of the body had come.
    ///   - stopAfter: give the connection up after so many bytes of the body; 0: never.
    ///   - verifies: compare each byte of a GET with `content`.
    mutating func perform(
        _ request: PlannedRequest, _ content: Content, mark: Int, stopAfter: Int, verifies: Bool
    ) throws(RequestFailure) -> RequestTiming {
        isUsable = false
        let begin = nanoseconds()
        try send(request, content)
        let answer = try receiveHead()
        var timing = RequestTiming()
        timing.firstByte = nanoseconds() - begin
        let expected = request.method == .get ? request.bytes : nil
        let hasBody = request.method != .head && answer.status != 204
        var remaining = hasBody ? answer.contentLength : 0
        let isGood = (200..<300).contains(answer.status)
        if isGood, let expected, expected != answer.contentLength {
            throw .badAnswer("\(answer.contentLength) bytes instead of \(expected)")
        }
        while remaining > 0 {
            if start == end { try fill() }
            if timing.bytes == 0 { timing.firstByte = nanoseconds() - begin }
            let count = min(end - start, remaining)
            if verifies && isGood && request.method == .get {
                try verify(count, request, at: request.offset + timing.bytes, content)
            }
            start += count
            remaining -= count
            timing.bytes += count
            if timing.mark == 0 && timing.bytes >= mark { timing.mark = nanoseconds() - begin }
            if stopAfter > 0 && timing.bytes >= stopAfter {
                timing.total = nanoseconds() - begin
                return timing
            }
        }
        timing.total = nanoseconds() - begin
        if request.method == .put { timing.bytes = request.bytes }
        isUsable = !answer.closes
        guard isGood else { throw .status(answer.status) }
        return timing
    }

    private func send(
        _ request: PlannedRequest, _ content: Content
    ) throws(RequestFailure) {
        var sent = 0
        let body = request.method == .put ? request.bytes : 0
        let total = request.head.count + body
        while sent < total {
            let bodySent = max(0, sent - request.head.count)
            let count = content.withBytes(
                seed: request.seed, offset: bodySent, count: body - bodySent
            ) { piece in
                request.head.withUnsafeBytes { head in
                    sendTogether(
                        UnsafeRawBufferPointer(rebasing: head[min(sent, head.count)...]), piece)
                }
            }
            guard count > 0 else {
                if count < 0 && errno == EINTR { continue }
                if errno == EPIPE || errno == ECONNRESET { throw .closedEarly }
                throw .system(operation: "send", code: errno)
            }
            sent += count
        }
    }

    /// One call of sendmsg(2) with what is left of the head and a piece of the body.
    private func sendTogether(_ head: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer) -> Int
    {
        var vectors = [head, body].map {
            iovec(iov_base: UnsafeMutableRawPointer(mutating: $0.baseAddress), iov_len: $0.count)
        }
        return vectors.withUnsafeMutableBufferPointer { vectors in
            var message = msghdr()
            message.msg_iov = vectors.baseAddress
            message.msg_iovlen = vectors.count
            return sendmsg(descriptor, &message, Connection.sendFlags)
        }
    }

    /// Receives more bytes behind those that are there.
    private mutating func fill() throws(RequestFailure) {
        if start == end {
            start = 0
            end = 0
        }
        guard end < buffer.count else { throw .badAnswer("headers without end") }
        while true {
            let count = recv(descriptor, buffer.baseAddress! + end, buffer.count - end, 0)
            if count > 0 {
                end += count
                return
            }
            if count < 0 && errno == EINTR { continue }
            if count == 0 || errno == ECONNRESET { throw .closedEarly }
            throw .system(operation: "receive", code: errno)
        }
    }

    private struct Answer {
        var status = 0
        var contentLength = 0
        var closes = false
    }

    private mutating func receiveHead() throws(RequestFailure) -> Answer {
        var scanned = start
        while true {
            while scanned + 4 <= end {
                if buffer[scanned] == 13, buffer[scanned + 1] == 10, buffer[scanned + 2] == 13,
                    buffer[scanned + 3] == 10
                {
                    let head = String(
                        decoding: UnsafeRawBufferPointer(rebasing: buffer[start..<scanned]),
                        as: UTF8.self)
                    start = scanned + 4
                    return try parse(head)
                }
                scanned += 1
            }
            let wasEmpty = start == end
            try fill()
            if wasEmpty { scanned = start }
        }
    }

    private func parse(_ head: String) throws(RequestFailure) -> Answer {
        var answer = Answer()
        let lines = head.split(separator: "\r\n")
        let words = lines.first?.split(separator: " ") ?? []
        guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]) else {
            throw .badAnswer("no status line")
        }
        answer.status = status
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { continue }
            let value = line[line.index(after: colon)...].drop { $0 == " " }
            switch line[..<colon].lowercased() {
            case "content-length":
                guard let count = Int(value) else { throw .badAnswer("\(line)") }
                answer.contentLength = count
            case "transfer-encoding": throw .badAnswer("a chunked body")
            case "connection": answer.closes = value.lowercased() == "close"
            default: break
            }
        }
        return answer
    }

    private func verify(
        _ count: Int, _ request: PlannedRequest, at offset: Int, _ content: Content
    ) throws(RequestFailure) {
        var done = 0
        while done < count {
            let (isEqual, compared) = content.withBytes(
                seed: request.seed, offset: offset + done, count: count - done
            ) { wanted in
                let found = buffer.baseAddress! + start + done
                return (memcmp(found, wanted.baseAddress!, wanted.count) == 0, wanted.count)
            }
            guard isEqual else { throw .mismatch }
            done += compared
        }
    }
}
