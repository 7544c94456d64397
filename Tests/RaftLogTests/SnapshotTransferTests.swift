import Bytes
import Checksum
import Foundation
import Model
import Raft
import Reactor
import Testing

@testable import RaftLog

@Suite("Snapshot transfer")
struct SnapshotTransferTests {
    private func content(_ size: Int, seed: UInt64) -> [UInt8] {
        var random = SplitMix64(state: seed)
        return (0..<size).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }

    private func sender(
        _ bytes: [UInt8], _ directory: String, index: LogIndex = 10, on reactor: Reactor
    ) async throws -> SnapshotSender {
        let path = "\(directory)/source-\(index)"
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        return try await SnapshotSender.open(
            path, group: groupID(1), index: index, term: 3, on: reactor)
    }

    private func send(
        _ sender: SnapshotSender, to receiver: SnapshotReceiver, size: Int = 100_000,
        until end: Int = .max
    ) async throws {
        while let piece = try await sender.piece(at: await receiver.nextOffset, size: size),
            piece.offset < end
        {
            try await receiver.write(piece)
        }
    }

    @Test("what is sent in pieces arrives whole", arguments: [0, 1, 4096, 100_001, 3_000_000])
    func whole(size: Int) async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let bytes = content(size, seed: 1)
            let sender = try await sender(bytes, directory, on: reactor)
            #expect(sender.header.checksum == CRC32C.of(bytes))
            let receiver = try await SnapshotReceiver.begin(
                sender.header, in: directory, on: reactor)
            try await send(sender, to: receiver, size: 77_777)
            let path = try await receiver.finish()
            #expect(path == SnapshotFile.path(sender.header, in: directory))
            #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data(bytes))
            #expect(
                try await SnapshotReceiver.pending(groupID(1), in: directory, on: reactor) == nil)
            let late = await #expect(throws: StoreError.self) { _ = try await receiver.finish() }
            #expect(late?.code == .notReady)
            try await sender.close()
        }
    }

    @Test("pieces that are wrong are refused, and nothing is lost by them")
    func wrongPieces() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let bytes = content(300_000, seed: 2)
            let sender = try await sender(bytes, directory, on: reactor)
            let receiver = try await SnapshotReceiver.begin(
                sender.header, in: directory, on: reactor)
            let first = try #require(try await sender.piece(at: 0, size: 100_000))
            let second = try #require(try await sender.piece(at: 100_000, size: 100_000))
            let ahead = await #expect(throws: StoreError.self) { try await receiver.write(second) }
            #expect(ahead?.message.contains("the next one begins at 0") == true)
            try await receiver.write(first)
            try await receiver.write(first)  // again: ignored
            #expect(await receiver.nextOffset == 100_000)
            let overlap = try #require(try await sender.piece(at: 50_000, size: 100_000))
            let beside = await #expect(throws: StoreError.self) {
                try await receiver.write(overlap)
            }
            #expect(beside?.code == .badRequest)
            var damaged = second
            damaged.checksum ^= 1
            let wrong = await #expect(throws: StoreError.self) { try await receiver.write(damaged) }
            #expect(wrong?.message.contains("does not match its checksum") == true)
            let early = await #expect(throws: StoreError.self) { _ = try await receiver.finish() }
            #expect(early?.message.contains("100000 of 300000") == true)
            var beyond = second
            beyond.offset = 250_000
            let outside = await #expect(throws: StoreError.self) {
                try await receiver.write(beyond)
            }
            #expect(outside?.code == .badRequest)
            try await send(sender, to: receiver)
            let path = try await receiver.finish()
            #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data(bytes))
        }
    }

    @Test("a transfer goes on where it was made durable; a newer one replaces it, not an older")
    func resume() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let bytes = content(500_000, seed: 3)
            let sender = try await sender(bytes, directory, index: 10, on: reactor)
            var receiver = try await SnapshotReceiver.begin(
                sender.header, in: directory, on: reactor)
            try await send(sender, to: receiver, until: 200_001)
            try await receiver.pause()
            let reached = await receiver.nextOffset
            #expect(reached == 300_000)
            receiver = try await SnapshotReceiver.begin(sender.header, in: directory, on: reactor)
            #expect(await receiver.nextOffset == reached)
            let older = try await self.sender(bytes, directory, index: 9, on: reactor)
            let refusal = await #expect(throws: StoreError.self) {
                _ = try await SnapshotReceiver.begin(older.header, in: directory, on: reactor)
            }
            #expect(refusal?.code == .conflict)
            // Damage to what was durable: it begins anew.
            let partial = SnapshotFile.partial(groupID(1), in: directory)
            let file = try FileHandle(forWritingTo: URL(fileURLWithPath: partial))
            try file.seek(toOffset: 1234)
            try file.write(contentsOf: [bytes[1234] ^ 1])
            try file.close()
            receiver = try await SnapshotReceiver.begin(sender.header, in: directory, on: reactor)
            #expect(await receiver.nextOffset == 0)
            try await send(sender, to: receiver, until: 100_001)
            try await receiver.pause()
            let newerBytes = content(400_000, seed: 4)
            let newer = try await self.sender(newerBytes, directory, index: 11, on: reactor)
            receiver = try await SnapshotReceiver.begin(newer.header, in: directory, on: reactor)
            #expect(await receiver.nextOffset == 0)
            try await send(newer, to: receiver)
            let path = try await receiver.finish()
            #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data(newerBytes))
        }
    }

    @Test("a snapshot that is not what its header said is thrown away")
    func wrongWhole() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let sender = try await sender(content(50_000, seed: 5), directory, on: reactor)
            var header = sender.header
            header.checksum ^= 0x10
            let receiver = try await SnapshotReceiver.begin(header, in: directory, on: reactor)
            try await send(sender, to: receiver)
            let error = await #expect(throws: StoreError.self) { _ = try await receiver.finish() }
            #expect(error?.code == .corrupt)
            let again = try await SnapshotReceiver.begin(
                sender.header, in: directory, on: reactor)
            #expect(await again.nextOffset == 0)
        }
    }

    @Test("after a power cut at any operation a transfer goes on and ends whole")
    func powerCut() async throws {
        let bytes = content(400_000, seed: 6)
        var offsets: Set<Int> = []
        var finished = 0
        for operation in 0..<40 {
            try await withTemporaryDirectory { directory in
                let faults = FaultInjector(seed: UInt64(operation))
                let faulty = try Reactor.start(.init(backend: .faulty(faults)))
                let sender = try await sender(bytes, directory, on: faulty)
                faults.crash(atOperation: operation)
                var done = ""
                do {
                    let receiver = try await SnapshotReceiver.begin(
                        sender.header, in: directory, on: faulty)
                    while let piece = try await sender.piece(
                        at: await receiver.nextOffset, size: 50_000)
                    {
                        try await receiver.write(piece)
                        if piece.offset % 100_000 == 50_000 { try await receiver.pause() }
                    }
                    done = try await receiver.finish()
                    finished += 1
                } catch let error as StoreError {
                    #expect(error.code == .io)
                }
                faulty.stop()
                faults.applyCrash()
                let reactor = try Reactor.start()
                defer { reactor.stop() }
                let path: String
                if done.isEmpty {
                    let source = try await self.sender(bytes, directory, on: reactor)
                    let again = try await SnapshotReceiver.begin(
                        source.header, in: directory, on: reactor)
                    offsets.insert(await again.nextOffset)
                    try await send(source, to: again)
                    path = try await again.finish()
                } else {
                    path = done
                }
                #expect(
                    try Data(contentsOf: URL(fileURLWithPath: path)) == Data(bytes),
                    "operation \(operation)")
            }
        }
        // It went on from several places, and was whole where it had ended.
        #expect(offsets.count >= 4)
        #expect(finished > 0)
    }
}
