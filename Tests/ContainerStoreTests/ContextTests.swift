import Bytes
import Model
import Reactor
import Telemetry
import Testing

@testable import ContainerStore

@Suite("For whom the store works")
struct ContextTests {
    @Test("what is appended and read goes through the disk in the class of its caller")
    func classes() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            let disk = store.volumeList[0].disk
            for (number, ioClass) in IOClass.allCases.enumerated() {
                let block = blockID(UInt64(number) + 1)
                var whole = cell(block, at: 0, pattern(9000, seed: 1), ended: true)
                whole.replicaIndex = 1
                let before = disk.statistics()
                try await store.append(whole, IOContext(ioClass))
                _ = try await store.read(block, replicaIndex: 1, 0..<9000, IOContext(ioClass))
                let after = disk.statistics()
                for other in IOClass.allCases {
                    let reads = after[other].reads.count - before[other].reads.count
                    #expect(reads == (other == ioClass ? 1 : 0))
                    // The journal is everybody's.
                    let written = after[other].bytesWritten - before[other].bytesWritten
                    #expect(other != ioClass || written >= 12_288)
                    #expect(other == ioClass || other == .client || written == 0)
                }
            }
            try await store.close()
        }
    }

    @Test("what nobody waits for any more is not begun on a disk, and breaks nothing")
    func late() async throws {
        try await withReactor { directory, reactor in
            let store = try await openStore(directory, on: reactor)
            try await store.createContainer(
                ContainerID(1), replication: replication, replicaIndex: 1)
            let block = blockID(1)
            var whole = cell(block, at: 0, pattern(9000, seed: 1), ended: true)
            whole.replicaIndex = 1
            let sent = whole
            let late = IOContext(until: MonotonicTime(nanoseconds: 1))
            let disk = store.volumeList[0].disk
            let written = await refusal { try await store.append(sent, late) }
            #expect(written?.code == .deadlineExceeded)
            #expect(disk.statistics()[.client].expired == 1)
            // The same cell again, for somebody who waits.
            #expect(try await store.append(sent, .client) == 9000)
            let read = await refusal {
                try await store.read(block, replicaIndex: 1, 0..<9000, late)
            }
            #expect(read?.code == .deadlineExceeded)
            #expect(try await store.read(block, replicaIndex: 1, 0..<9000).payload.count == 9000)
            #expect(await store.volumes()[0].isFailed == false)
            #expect(await store.report()[0].state == .open)
            try await store.close()
        }
    }
}
