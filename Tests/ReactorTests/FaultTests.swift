import Bytes
import Foundation
import Testing

@testable import Reactor

@Suite("Fault injection")
struct FaultTests {
    @Test("after a power cut, synced writes are there and unsynced ones whole, lost or torn")
    func powerCut() async throws {
        var outcomes: Set<String> = []
        for seed in 0..<40 as Range<UInt64> {
            try await withTemporaryDirectory { directory in
                let faults = FaultInjector(seed: seed)
                let reactor = try Reactor.start(.init(backend: .faulty(faults)))
                let file = try await File.open(
                    directory + "/f", [.read, .write, .create], on: reactor)
                try await reactor.synchronizeDirectory(directory)
                let one = Payload(
                    copying: [UInt8](repeating: 1, count: 4096), pool: reactor.pool)
                let two = Payload(
                    copying: [UInt8](repeating: 2, count: 4096), pool: reactor.pool)
                try await file.write(one, at: 0)
                try await file.synchronize()
                try await file.write(two, at: 4096)
                try await file.write(two, at: 0)
                faults.crash(atOperation: faults.operationCount)
                await #expect(throws: IOError.self) { try await file.synchronize() }
                reactor.stop()
                faults.applyCrash()
                let bytes = try Data(contentsOf: URL(fileURLWithPath: directory + "/f"))
                #expect(bytes.count >= 4096)
                #expect(bytes.prefix(4096).allSatisfy { $0 == 1 || $0 == 2 })
                let ones = bytes.prefix(4096).filter { $0 == 1 }.count
                #expect(ones % 512 == 0, "a sector is never torn")
                outcomes.insert(ones == 0 ? "kept" : ones == 4096 ? "lost" : "torn")
            }
        }
        #expect(outcomes == ["kept", "lost", "torn"])
    }

    @Test("a durable write is there after a power cut; others of its file need not be")
    func durableWrite() async throws {
        var outcomes: Set<String> = []
        for seed in 0..<40 as Range<UInt64> {
            try await withTemporaryDirectory { directory in
                let faults = FaultInjector(seed: seed)
                let reactor = try Reactor.start(.init(backend: .faulty(faults)))
                let file = try await File.open(
                    directory + "/f", [.read, .write, .create, .direct], on: reactor)
                try await reactor.synchronizeDirectory(directory)
                func bytes(_ value: UInt8) -> Payload {
                    Payload(
                        copying: [UInt8](repeating: value, count: 4096), pool: reactor.pool)
                }
                try await file.write(bytes(1), at: 0)
                try await file.write(bytes(2), at: 0, isDurable: true)
                try await file.write(bytes(3), at: 4096)
                faults.crash(atOperation: faults.operationCount)
                await #expect(throws: IOError.self) {
                    try await file.write(bytes(4), at: 0, isDurable: true)
                }
                reactor.stop()
                faults.applyCrash()
                let found = try Data(contentsOf: URL(fileURLWithPath: directory + "/f"))
                #expect(found.prefix(4096).allSatisfy { $0 == 2 } && found.count >= 4096)
                let threes = found.dropFirst(4096).filter { $0 == 3 }.count
                outcomes.insert(threes == 4096 ? "kept" : threes == 0 ? "lost" : "torn")
            }
        }
        #expect(outcomes == ["kept", "lost", "torn"])
    }

    @Test("a file whose directory was not synced may vanish, and a lost rename is undone")
    func names() async throws {
        var outcomes: Set<[String]> = []
        for seed in 0..<40 as Range<UInt64> {
            try await withTemporaryDirectory { directory in
                let faults = FaultInjector(seed: seed)
                let reactor = try Reactor.start(.init(backend: .faulty(faults)))
                for (name, text) in [("a", "old"), ("b", "new")] {
                    let file = try await File.open(
                        directory + "/" + name, [.write, .create], on: reactor)
                    try await file.write(
                        Payload(copying: Array(text.utf8), pool: reactor.pool), at: 0)
                    try await file.synchronize()
                    if name == "a" { try await reactor.synchronizeDirectory(directory) }
                }
                try await reactor.rename(directory + "/b", to: directory + "/a")
                reactor.stop()
                faults.applyCrash()
                let text = try String(contentsOfFile: directory + "/a", encoding: .utf8)
                let names = try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
                outcomes.insert(names + [text])
            }
        }
        #expect(outcomes == [["a", "new"], ["a", "b", "old"], ["a", "old"]])
    }

    @Test("short and delayed operations still move every byte, errors are reported")
    func rates() async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 7, rates: .init(short: 0.5, delay: 0.5))
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            defer { reactor.stop() }
            let file = try await File.open(
                directory + "/f", [.read, .write, .create, .direct], on: reactor)
            let bytes = (0..<(256 << 10)).map { UInt8(truncatingIfNeeded: $0 / 512) }
            for _ in 0..<20 {
                try await file.write(Payload(copying: bytes, pool: reactor.pool), at: 0)
                let back = reactor.pool.allocate(bytes.count)
                #expect(try await file.read(into: back, 0..<bytes.count, at: 0) == bytes.count)
                let isEqual = back.bytes(in: 0..<bytes.count).elementsEqual(bytes)
                #expect(isEqual)
            }
            faults.set(rates: .init(error: 1))
            await #expect(throws: IOError.self) { try await file.synchronize() }
        }
    }
}

@Suite("Durable names") struct DurableNamesTests {
    @Test(
        "the directory above a path",
        arguments: [
            ("/a/b/c", "/a/b"), ("/a/b/", "/a"), ("/a", "/"), ("/", "/"), ("a/b", "a"), ("a", "."),
            ("//a//b", "/a"),
        ])
    func parents(path: String, above: String) {
        #expect(DirectoryPath.parent(of: path) == above)
    }

    @Test("a durable directory survives a power cut with all above it, whoever made them")
    func directories() async throws {
        try await withTemporaryDirectory { directory in
            let faults = FaultInjector(seed: 3, losesFolders: true)
            let reactor = try Reactor.start(.init(backend: .faulty(faults)))
            try await Task(executorPreference: reactor) {
                try await reactor.makeDirectory("\(directory)/there")
                try await reactor.makeDirectory("\(directory)/there/too")
                try await reactor.makeDirectory("\(directory)/lost")
                try await reactor.makeDurableDirectory("\(directory)/there/too/a/b")
                try await reactor.replaceFile("\(directory)/there/too/a/b/file", with: [1])
                try await reactor.replaceFile("\(directory)/there/too/a/b/file", with: [1, 2, 3])
            }.value
            faults.crash(atOperation: faults.operationCount)
            reactor.stop()
            faults.applyCrash()
            let next = try Reactor.start()
            defer { next.stop() }
            try await Task(executorPreference: next) {
                let file = try await next.status("\(directory)/there/too/a/b/file")
                let new = try await next.status("\(directory)/there/too/a/b/file.new")
                #expect(file?.size == 3 && new == nil)
            }.value
        }
    }
}
