import Foundation
import Testing

@testable import apus

@Suite("Files that the kernel makes")
struct KernelFileTests {
    @Test("one of several pieces is read to its end")
    func toTheEnd() {
        // What a process has mapped is listed by address; its stack is among the last.
        let text = KernelFile.contents("/proc/self/maps")
        #expect(text.utf8.count > 8 << 10)
        #expect(text.contains("[stack]"))
        #expect(text.hasSuffix("\n"))
    }

    @Test("where there is none, nothing is read")
    func missing() {
        #expect(KernelFile.contents("/proc/self/no-such-file") == "")
    }
}
