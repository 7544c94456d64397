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
    func adopted() async throws {
        let (old, new) = (Identity128(high: 1, low: 2), Identity128(high: 3, low: 4))
        let cluster = Identity128(high: 5, low: 6)
        let path = try volume(VolumeVersion(datanode: old, cluster: cluster).encoded())
        defer { try? FileManager.default.removeItem(atPath: path) }
        #expect(try await MovedVolume(path: path).adopt(by: new) == old)
        let found = try VolumeVersion(
            parsing: Array(Data(contentsOf: URL(fileURLWithPath: path + "/VERSION"))))
        #expect(found == VolumeVersion(datanode: new, cluster: cluster))
        let again = await #expect(throws: StoreError.self) {
            try await MovedVolume(path: path).adopt(by: new)
        }
        #expect(again?.message.contains("already") == true)
    }

    @Test("what is no volume, is damaged or in use is left as it is")
    func refused() async throws {
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
            let error = await #expect(throws: StoreError.self) {
                try await MovedVolume(path: path).adopt(by: id, patience: .zero)
            }
            #expect(error?.message.contains(what) == true, "\(error?.message ?? "")")
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: used + "/VERSION")) == Data(bytes))
    }

    @Test("one whose datanode was just killed, so that it still holds its lock, is waited for")
    func stillHeld() async throws {
        let (old, new) = (Identity128(high: 1, low: 2), Identity128(high: 3, low: 4))
        let path = try volume(VolumeVersion(datanode: old, cluster: nil).encoded())
        defer { try? FileManager.default.removeItem(atPath: path) }
        let lock = open(path + "/in-use.lock", O_WRONLY | O_CREAT, 0o644)
        #expect(lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0)
        async let before = MovedVolume(path: path).adopt(by: new)
        try await Task.sleep(for: .milliseconds(200))
        close(lock)
        #expect(try await before == old)
    }

    @Test("one of another cluster is left as it is; one that was being drained is used again")
    func clusters() async throws {
        let (here, elsewhere) = (Identity128(high: 5, low: 6), Identity128(high: 7, low: 8))
        let (old, new) = (Identity128(high: 1, low: 2), Identity128(high: 3, low: 4))
        let own = try volume(VolumeVersion(datanode: new, cluster: here).encoded())
        let strange = try volume(VolumeVersion(datanode: old, cluster: elsewhere).encoded())
        let drained = try volume(VolumeVersion(datanode: old, cluster: here).encoded())
        defer {
            for path in [own, strange, drained] {
                try? FileManager.default.removeItem(atPath: path)
            }
        }
        let error = await #expect(throws: StoreError.self) {
            try await MovedVolume(path: strange).adopt(by: new, beside: ["/nowhere", own])
        }
        #expect(error?.message.contains("\(elsewhere)") == true)
        try Data().write(to: URL(fileURLWithPath: drained + "/leaving"))
        try FileManager.default.createDirectory(
            atPath: drained + "/containers", withIntermediateDirectories: true)
        for name in ["container-7.data", "container-7.journal", "container-9.journal.deleted"] {
            try Data().write(to: URL(fileURLWithPath: drained + "/containers/" + name))
        }
        #expect(try await MovedVolume(path: drained).adopt(by: new, beside: [own]) == old)
        #expect(!FileManager.default.fileExists(atPath: drained + "/leaving"))
        #expect(MovedVolume(path: drained).containers == [7])
    }
}
