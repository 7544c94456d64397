import ContainerFormat
import Foundation
import Model
import Testing

@testable import apus

@Suite("a disk that was moved to another datanode")
struct DiskMovedTests {
    private func volume(_ bytes: [UInt8]?) throws -> String {
        let path = FileManager.default.temporaryDirectory
            .appendingPathComponent("apus-moved-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
        if let bytes { try Data(bytes).write(to: URL(fileURLWithPath: path + "/VERSION")) }
        return path
    }

    @Test("its volume names the new datanode, and keeps its cluster")
    func adopted() throws {
        let (old, new) = (Identity128(high: 1, low: 2), Identity128(high: 3, low: 4))
        let cluster = Identity128(high: 5, low: 6)
        let path = try volume(VolumeVersion(datanode: old, cluster: cluster).encoded())
        defer { try? FileManager.default.removeItem(atPath: path) }
        #expect(try MovedVolume(path: path).adopt(by: new) == old)
        let found = try VolumeVersion(
            parsing: Array(Data(contentsOf: URL(fileURLWithPath: path + "/VERSION"))))
        #expect(found == VolumeVersion(datanode: new, cluster: cluster))
        let again = #expect(throws: StoreError.self) {
            try MovedVolume(path: path).adopt(by: new)
        }
        #expect(again?.message.contains("already") == true)
    }

    @Test("what is no volume, is damaged or in use is left as it is")
    func refused() throws {
        let id = Identity128(high: 3, low: 4)
        let empty = try volume(nil)
        let damaged = try volume(Array("apus-volume 2\nnonsense\n".utf8))
        let bytes = VolumeVersion(datanode: Identity128(high: 1, low: 2), cluster: nil).encoded()
        let used = try volume(bytes)
        defer {
            for path in [empty, damaged, used] {
                try? FileManager.default.removeItem(atPath: path)
            }
        }
        let lock = open(used + "/in-use.lock", O_WRONLY | O_CREAT, 0o644)
        defer { close(lock) }
        #expect(lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0)
        for (path, what) in [
            (empty, "is no volume"), (damaged, "VERSION"), (used, "is in use by another process"),
        ] {
            let error = #expect(throws: StoreError.self) {
                try MovedVolume(path: path).adopt(by: id)
            }
            #expect(error?.message.contains(what) == true, "\(error?.message ?? "")")
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: used + "/VERSION")) == Data(bytes))
    }
}
