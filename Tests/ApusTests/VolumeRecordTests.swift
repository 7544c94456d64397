import Foundation
import Model
import Testing

@testable import apus

@Suite("The volumes that a datanode has had")
struct VolumeRecordTests {
    /// A folder that is gone when `body` returns.
    private func withFolder<R>(_ body: (String) throws -> R) throws -> R {
        let path = "/tmp/apus-volumes-\(UUID())"
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        return try body(path)
    }

    private func makeVolume(_ path: String) throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try Data("apus-volume 2\n".utf8).write(to: URL(fileURLWithPath: path + "/VERSION"))
    }

    @Test("a new path may become a volume; one that was and is empty, or not there, may not")
    func refused() throws {
        try withFolder { folder in
            let (a, b, new) = (folder + "/a", folder + "/b", folder + "/new")
            try makeVolume(a)
            try makeVolume(b)
            try VolumeRecord.load(from: folder).keep([a, b], in: folder)
            let record = try VolumeRecord.load(from: folder)
            #expect(record.volumes == [a, b])
            #expect(record.refused(of: [a, b, new]).isEmpty)
            // An unmounted disk leaves the directory below it.
            unlink(a + "/VERSION")
            try FileManager.default.removeItem(atPath: b)
            let reasons = record.refused(of: [a, b, new])
            #expect(reasons.keys.sorted() == [a, b])
            #expect(reasons[a]?.contains("is its disk mounted?") == true)
            #expect(reasons[a]?.contains("apus disk replaced \(a)") == true)
            // A start without them does not forget them.
            try record.keep([a, b, new], in: folder)
            #expect(try VolumeRecord.load(from: folder).volumes == [a, b])
        }
    }

    @Test("a path that is taken out of the settings is remembered, however it is written")
    func remembered() throws {
        try withFolder { folder in
            try makeVolume(folder + "/a")
            let record = VolumeRecord(volumes: [folder + "/a", folder + "/b"])
            let later = record.noting([folder + "/a/"])
            #expect(later.volumes == [folder + "/a", folder + "/b"])
            #expect(later.refused(of: [folder + "/b/"]).count == 1)
        }
    }

    @Test("a record of a later version, or a damaged one, is refused by name")
    func versions() throws {
        try withFolder { folder in
            let path = folder + "/" + VolumeRecord.fileName
            for (text, code) in [
                (#"{"version": 2, "volumes": []}"#, StoreError.Code.versionMismatch),
                ("{", .corrupt),
            ] {
                try Data(text.utf8).write(to: URL(fileURLWithPath: path))
                let error = #expect(throws: StoreError.self) {
                    try VolumeRecord.load(from: folder)
                }
                #expect(error?.code == code && error?.message.contains(path) == true)
            }
        }
    }
}
