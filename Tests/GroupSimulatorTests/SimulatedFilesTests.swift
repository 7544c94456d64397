import Glibc
import Simulator
import Testing

@testable import GroupSimulator

@Suite("Files of a simulated machine")
struct SimulatedFilesTests {
    private static func bytes(_ value: UInt8, _ count: Int) -> [UInt8] {
        [UInt8](repeating: value, count: count)
    }

    private static func made(_ files: SimulatedFiles, _ path: String) throws -> SimulatedFiles.Node
    {
        try files.open(path, flags: O_RDWR | O_CREAT).get()
    }

    @Test("a power cut keeps what was synced, and of the rest any blocks")
    func tears() throws {
        var outcomes: Set<[UInt8]> = []
        for seed in 0..<300 as Range<UInt64> {
            var generator = SeededGenerator(seed: seed)
            let files = SimulatedFiles()
            let node = try Self.made(files, "/a")
            let root = try #require(files.find("/"))
            files.synchronize(root, through: files.mark(root))
            files.change(node, .write(offset: 0, Self.bytes(1, 1024)))
            files.synchronize(node, through: files.mark(node))
            files.change(node, .write(offset: 0, Self.bytes(2, 1024)))
            files.cutPower(&generator)
            let found = try #require(files.find("/a")).content
            #expect(found.count == 1024)
            for block in [found[..<512], found[512...]] {
                #expect(Set(block).count == 1)
                #expect([1, 2].contains(block.first))
            }
            outcomes.insert([found[0], found[1023]])
        }
        // Nothing, all, and either block alone.
        #expect(outcomes.count == 4)
    }

    @Test("a sync makes durable what was written before it began, not what came while it ran")
    func syncs() throws {
        for seed in 0..<50 as Range<UInt64> {
            var generator = SeededGenerator(seed: seed)
            let files = SimulatedFiles()
            let node = try Self.made(files, "/a")
            files.change(node, .write(offset: 0, Self.bytes(1, 512)))
            let mark = files.mark(node)
            files.change(node, .write(offset: 512, Self.bytes(2, 512)))
            files.synchronize(node, through: mark)
            #expect(node.durable == Self.bytes(1, 512))
            #expect(node.content.count == 1024)
            files.cutPower(&generator)
            #expect(node.content.prefix(512) == Self.bytes(1, 512)[...])
        }
    }

    @Test("a name is durable with its directory, and a rename leaves the old or the new one")
    func names() throws {
        var found: Set<[String]> = []
        for seed in 0..<100 as Range<UInt64> {
            var generator = SeededGenerator(seed: seed)
            let files = SimulatedFiles()
            #expect(files.makeDirectory("/d") == 0)
            let root = try #require(files.find("/"))
            files.synchronize(root, through: files.mark(root))
            _ = try Self.made(files, "/d/old")
            let folder = try #require(files.find("/d"))
            files.synchronize(folder, through: files.mark(folder))
            #expect(files.rename("/d/old", to: "/d/new") == 0)
            #expect(files.list("/d") == ["new"])
            _ = try Self.made(files, "/d/later")
            files.cutPower(&generator)
            let names = try #require(files.list("/d"))
            #expect([["old"], ["new"], ["later", "new"]].contains(names))
            found.insert(names)
        }
        #expect(found.count == 3)
    }

    @Test("a copy is a disk of its own, with what is not synced yet")
    func copies() throws {
        let files = SimulatedFiles()
        let root = try #require(files.find("/"))
        let node = try Self.made(files, "/a")
        files.synchronize(root, through: files.mark(root))
        files.change(node, .write(offset: 0, Self.bytes(1, 512)))
        _ = try Self.made(files, "/b")
        let copy = SimulatedFiles(copying: files)
        files.synchronize(node, through: files.mark(node))
        #expect(files.remove("/b") == 0)
        #expect(copy.list("/") == ["a", "b"])
        let copied = try #require(copy.find("/a"))
        #expect(copied.content == Self.bytes(1, 512))
        #expect(copied.durable == [])
        copy.change(copied, .write(offset: 0, Self.bytes(2, 512)))
        #expect(node.durable == Self.bytes(1, 512))
        var generator = SeededGenerator(seed: 3)
        copy.cutPower(&generator)
        #expect(files.list("/") == ["a"])
        #expect(node.content == Self.bytes(1, 512))
    }

    @Test("a file whose name is gone is forgotten by a power cut")
    func unnamed() throws {
        let files = SimulatedFiles()
        _ = try Self.made(files, "/a")
        #expect(files.remove("/a") == 0)
        #expect(files.find("/a") == nil)
        #expect(files.remove("/a") == -ENOENT)
        var generator = SeededGenerator(seed: 1)
        files.cutPower(&generator)
        #expect(files.find("/a") == nil)
    }
}
