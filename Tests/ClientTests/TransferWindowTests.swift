import Testing

@testable import Client

@Suite("Window of transfers")
struct TransferWindowTests {
    @Test("few have much, many little, and none more than all")
    func shares() {
        let window = TransferWindow(bytes: 1000)
        #expect(window.share == 1000)
        for _ in 0..<3 { window.enter() }
        #expect(window.share == 333)
        window.leave()
        #expect(window.share == 500)
        for _ in 0..<2000 { window.enter() }
        #expect(window.share == 0, "each goes on with a stripe all the same")
        for _ in 0..<2002 { window.leave() }
        #expect(window.share == 1000)
    }
}
