import Model
import Testing

@testable import Wire

@Suite("Identities of calls")
struct CallIDTests {
    private let id = CallID(
        client: Identity128(high: 0x0102, low: 0x0304), sequence: 5, answeredBelow: 4,
        isRepeat: true)

    @Test("its bytes are pinned")
    func pinned() {
        var bytes: [UInt8] = [7, 7]
        id.append(to: &bytes)
        #expect(
            bytes
                == [7, 7, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]
                + [5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1])
        #expect(bytes.count == 2 + CallID.encodedSize)
        #expect(CallID(endOf: bytes) == id)
    }

    @Test("a message that is to end with one and is too short is refused, as are unknown flags")
    func refused() throws {
        func parse(_ header: FrameHeader) throws -> FrameHeader {
            var bytes = [UInt8](repeating: 0, count: FrameHeader.size)
            bytes.withUnsafeMutableBytes { header.write(to: $0) }
            return try bytes.withUnsafeBytes { try FrameHeader(parsing: $0) }
        }
        var header = FrameHeader(
            kind: .request, ioClass: 3, flags: FrameHeader.Flag.call, messageBytes: 33)
        #expect(try parse(header) == header)
        header.messageBytes = 32
        #expect(throws: FrameError.callCutOff(32)) { try parse(header) }
        header.messageBytes = 33
        header.flags = 0x81
        #expect(throws: FrameError.flags(0x81)) { try parse(header) }
        // Other frames have a status there, of up to two bytes.
        let response = FrameHeader(kind: .response, status: 0x0105)
        #expect(try parse(response) == response && response.flags == 0)
    }

    @Test("every request is a change or is not, and those that open, write or take away are")
    func changes() {
        let changes = OMMethod.allCases.filter(\.isChange)
        #expect(changes.count == 16)
        #expect(changes.contains(.openKey) && changes.contains(.reserve))
        #expect(!changes.contains(.lookupKey) && !changes.contains(.holdBlocks))
    }
}
