import Bytes
import Glibc
import Model
import RaftLog
import Reactor
import Simulator
import Testing

@testable import GroupSimulator
@testable import RaftDriver

@Suite("What a start finds")
struct StartTests {
    private static let folder = "/data/snapshots"
    private static let group = GroupID(high: 7, low: 7)

    /// A disk with a snapshot that has arrived and been named, the name not synced: its process was
    /// killed just then.
    private static func disk(snapshot index: UInt64) throws -> SimulatedFiles {
        let files = SimulatedFiles()
        #expect(files.makeDirectory("/data") == 0)
        #expect(files.makeDirectory(folder) == 0)
        let partial = "\(folder)/snapshot-\(group).partial"
        let node = try files.open(partial, flags: O_RDWR | O_CREAT).get()
        files.change(node, .write(offset: 0, [1, 2, 3]))
        files.synchronize(node, through: files.mark(node))
        for path in ["/", "/data", folder] {
            let directory = try #require(files.find(path))
            files.synchronize(directory, through: files.mark(directory))
        }
        #expect(files.rename(partial, to: "\(folder)/snapshot-\(group)-\(index)") == 0)
        return files
    }

    /// The leader is told that it is here, and the log may begin behind it.
    @Test("a snapshot that a killed process has named is durable before its member goes on with it")
    func foundSnapshot() async throws {
        for seed in 0..<20 as Range<UInt64> {
            let files = Confined(try Self.disk(snapshot: 136))
            let found = await onThreadOfItsOwn {
                DiskProbe.run(on: files.value, pool: BufferPool()) { reactor in
                    var snapshots = SnapshotStore(Self.folder, group: Self.group, on: reactor)
                    do throws(StoreError) {
                        try await snapshots.prepare()
                    } catch {
                        Issue.record(error)
                    }
                    return snapshots.received
                }
            }
            #expect(found == [136])
            var generator = SeededGenerator(seed: seed)
            files.value.cutPower(&generator)
            #expect(files.value.list(Self.folder) == ["snapshot-\(Self.group)-136"])
        }
    }
}
