import Model
import Testing

@testable import Wire

private struct Generator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state ^ (state >> 29)
    }
}

@Suite("Frame header")
struct FrameHeaderTests {
    private func bytes(of header: FrameHeader) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xFF, count: FrameHeader.size)
        bytes.withUnsafeMutableBytes { header.write(to: $0) }
        return bytes
    }

    private func parse(_ bytes: [UInt8]) throws(FrameError) -> FrameHeader {
        var result: Result<FrameHeader, FrameError> = .failure(.headerChecksum)
        bytes.withUnsafeBytes { raw in
            do throws(FrameError) {
                result = .success(try FrameHeader(parsing: raw))
            } catch {
                result = .failure(error)
            }
        }
        return try result.get()
    }

    @Test("what is written is read back")
    func roundTrip() throws {
        var generator = Generator(state: 1)
        for _ in 0..<1000 {
            let kind = FrameHeader.Kind.allCases.randomElement(using: &generator)!
            let header = FrameHeader(
                kind: kind,
                requestID: generator.next(),
                method: UInt16.random(in: 0 ... .max, using: &generator),
                status: kind == .request ? 0 : UInt16.random(in: 0...40, using: &generator),
                ioClass: kind == .request ? UInt8.random(in: 0...255, using: &generator) : 0,
                tokenBytes: Int.random(in: 0...FrameHeader.Limits.tokenBytes, using: &generator),
                messageBytes: Int.random(
                    in: 0...FrameHeader.Limits.messageBytes, using: &generator),
                payloadBytes: Int.random(
                    in: 0...FrameHeader.Limits.payloadBytes, using: &generator),
                deadlineMilliseconds: UInt32.random(in: 0 ... .max, using: &generator),
                bodyChecksum: UInt32.random(in: 0 ... .max, using: &generator),
                traceID: generator.next(), credit: Int.random(in: 0...(1 << 30), using: &generator))
            #expect(try parse(bytes(of: header)) == header)
        }
    }

    @Test("the bytes of a header are pinned")
    func knownBytes() {
        let bytes = bytes(of: FrameHeader(kind: .request, requestID: 0x0102, method: 0x0201))
        #expect(Array(bytes[0..<8]) == [0x41, 0x50, 0x55, 0x53, 2, 0, 2, 0])
        #expect(Array(bytes[8..<18]) == [2, 1, 0, 0, 0, 0, 0, 0, 1, 2])
        #expect(Array(self.bytes(of: FrameHeader(kind: .request, ioClass: 3))[18..<20]) == [3, 0])
        #expect(Array(self.bytes(of: FrameHeader(kind: .goodbye, status: 3))[18..<20]) == [3, 0])
    }

    @Test("a flipped bit anywhere is refused")
    func flippedBits() {
        let good = bytes(of: FrameHeader(kind: .response, requestID: 7, messageBytes: 12))
        for bit in 0..<(FrameHeader.size * 8) {
            var bad = good
            bad[bit / 8] ^= 1 << (bit % 8)
            #expect(throws: FrameError.self) { try parse(bad) }
        }
    }

    @Test("another version is named, noise is told apart from it")
    func versions() {
        var other = bytes(of: FrameHeader(kind: .hello))
        other[4] = 9
        #expect(throws: FrameError.version(9)) { try parse(other) }
        let http = Array(
            "GET / HTTP/1.1\r\nHost: 127.0.0.1:9878\r\nAccept: */*\r\nX: 123456789\r\n\r\n".utf8)
        #expect(throws: FrameError.notAFrame(0x2054_4547)) { try parse(http) }
    }

    @Test("lengths over the limits are refused though the checksum is right")
    func lengths() {
        for (token, message, payload) in [
            (FrameHeader.Limits.tokenBytes + 1, 0, 0), (0, FrameHeader.Limits.messageBytes + 1, 0),
            (0, 0, FrameHeader.Limits.payloadBytes + 1),
        ] {
            let header = FrameHeader(
                kind: .request, tokenBytes: token, messageBytes: message, payloadBytes: payload)
            #expect(throws: FrameError.self) { try parse(bytes(of: header)) }
        }
    }

    @Test("random bytes never crash the parser")
    func fuzz() {
        var generator = Generator(state: 99)
        for _ in 0..<20_000 {
            var noise = (0..<FrameHeader.size).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            if Bool.random(using: &generator) {
                noise.replaceSubrange(0..<6, with: [0x41, 0x50, 0x55, 0x53, 1, 0])
            }
            #expect(throws: FrameError.self) { try parse(noise) }
        }
    }
}
