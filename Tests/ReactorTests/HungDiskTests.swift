import Bytes
import Glibc
import Synchronization
import Testing

@testable import Reactor

/// Two disks of one reactor, each with a directory; the first can be made to hang.
private struct TwoDisks {
    let faults: FaultInjector
    let reactor: Reactor
    let hung: Disk
    let other: Disk
    let directory: String

    var hungPath: String { directory + "/hung" }
    var otherPath: String { directory + "/other" }

    init(uring: Bool, in directory: String) async throws {
        self.directory = directory
        faults = FaultInjector(seed: 1, prefersUring: uring)
        reactor = try Reactor.start(.init(backend: .faulty(faults)))
        hung = Disk(name: directory + "/hung", on: reactor)
        other = Disk(name: directory + "/other", on: reactor)
        try await reactor.makeDirectory(hungPath, disk: hung)
        try await reactor.makeDirectory(otherPath, disk: other)
    }

    /// Everything that a disk is asked for, on the one that works.
    func useOther() async throws {
        let path = otherPath + "/file"
        let file = try await File.open(path, [.read, .write, .create], on: reactor, disk: other)
        let bytes = Payload(copying: [UInt8](repeating: 7, count: 8192), pool: reactor.pool)
        try await file.write(bytes, at: 0)
        try await file.synchronize()
        try await file.truncate(to: 4096)
        #expect(try await file.size() == 4096)
        try await file.close()
        try await reactor.rename(path, to: path + ".new", disk: other)
        #expect(try await reactor.status(path + ".new", disk: other)?.size == 4096)
        #expect(try await reactor.list(otherPath, disk: other) == ["file.new"])
        #expect(try await reactor.fileSystemStatus(otherPath, disk: other).capacity > 0)
        try await reactor.remove(path + ".new", disk: other)
        try await reactor.synchronizeDirectory(otherPath, disk: other)
    }
}

@Suite("A disk that hangs")
struct HungDiskTests {
    private static let operations = [
        "open", "rename", "remove", "truncate", "make a directory", "synchronize a directory",
        "list", "status", "space", "size", "close",
    ]

    @Test(
        "holds up nobody but itself, in whatever operation on a name it hangs",
        arguments: operations, [true, false])
    func names(operation: String, uring: Bool) async throws {
        try await withTemporaryDirectory { directory in
            let disks = try await TwoDisks(uring: uring, in: directory)
            let (reactor, path) = (disks.reactor, disks.hungPath)
            let file = try await File.open(
                path + "/a", [.write, .create], on: reactor, disk: disks.hung)
            disks.faults.set(hungPath: path)
            let isDone = Flag()
            let work = Task {
                let disk = disks.hung
                switch operation {
                case "open": _ = try await File.open(path + "/a", .read, on: reactor, disk: disk)
                case "rename": try await reactor.rename(path + "/a", to: path + "/b", disk: disk)
                case "remove": try await reactor.remove(path + "/a", disk: disk)
                case "truncate": try await file.truncate(to: 4096)
                case "make a directory": try await reactor.makeDirectory(path + "/c", disk: disk)
                case "synchronize a directory":
                    try await reactor.synchronizeDirectory(path, disk: disk)
                case "list": _ = try await reactor.list(path, disk: disk)
                case "status": _ = try await reactor.status(path + "/a", disk: disk)
                case "space": _ = try await reactor.fileSystemStatus(path, disk: disk)
                case "size": _ = try await file.size()
                default: try await file.close()
                }
                isDone.raise()
            }
            while disks.faults.hangingNames == 0 { try await reactor.sleep(for: .milliseconds(1)) }
            // More of them wait behind it, and none elsewhere.
            let more = Task {
                _ = try await reactor.status(path, disk: disks.hung)
            }
            try await disks.useOther()
            try await reactor.sleep(for: .milliseconds(1))
            #expect(!isDone.isRaised)
            disks.faults.set(hungPath: nil)
            try await work.value
            try await more.value
            #expect(isDone.isRaised)
            reactor.stop()
        }
    }

    @Test(
        "hangs without the reactor in an open that the kernel does not come back from",
        arguments: [true, false])
    func kernel(uring: Bool) async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start(.init(backend: uring ? .uring : .poll))
            let disk = Disk(name: directory, on: reactor)
            // A pipe is not opened for writing before somebody reads.
            let pipe = directory + "/pipe"
            #expect(mkfifo(pipe, 0o600) == 0)
            let opening = Task { try await File.open(pipe, .write, on: reactor, disk: disk) }
            for _ in 0..<20 { try await reactor.sleep(for: .milliseconds(1)) }
            // Files of no disk, on a thread of their own.
            let file = try await File.open(directory + "/f", [.write, .create], on: reactor)
            try await file.close()
            let reader = Glibc.open(pipe, O_RDONLY | O_NONBLOCK)
            let opened = try await opening.value
            #expect(opened.path == pipe)
            try await opened.close()
            Glibc.close(reader)
            reactor.stop()
        }
    }

    @Test("refuses what comes when too much waits for its thread")
    func bounded() async throws {
        try await withTemporaryDirectory { directory in
            let disks = try await TwoDisks(uring: true, in: directory)
            disks.faults.set(hungPath: disks.hungPath)
            let refused = await withTaskGroup(of: Bool.self) { group in
                for _ in 0..<BlockingThreads.Limits.queued + 8 {
                    group.addTask {
                        do throws(IOError) {
                            _ = try await disks.reactor.status(disks.hungPath, disk: disks.hung)
                            return false
                        } catch { return error.isOverload }
                    }
                }
                // One is refused before the disk goes on.
                var refused = 0
                for await isRefused in group where isRefused {
                    refused += 1
                    disks.faults.set(hungPath: nil)
                }
                return refused
            }
            #expect((1...8).contains(refused))
            disks.reactor.stop()
        }
    }
}

private final class Flag: Sendable {
    private let state = Mutex(false)
    var isRaised: Bool { state.withLock { $0 } }
    func raise() { state.withLock { $0 = true } }
}
