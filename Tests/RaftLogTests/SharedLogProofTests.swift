import Foundation
import Model
import Raft
import Reactor
import Testing

@testable import RaftLog

@Suite("SharedLog: the last batch is proven")
struct SharedLogProofTests {
    private let id = groupID(1)

    private func append(_ count: UInt64, to log: SharedLog) async throws {
        let group: GroupLog
        if let found = log.group(id) {
            group = found
        } else {
            group = try await log.create(id, confState: ConfState(voters: [1]))
        }
        for _ in 0..<count {
            let index = group.lastIndex + 1
            try await group.append(
                entries: [Entry(term: 1, index: index, data: [UInt8](repeating: 3, count: 900))],
                hardState: HardState(term: 1, vote: 1, commit: index))
        }
    }

    /// Flips a bit in the last batch that has records.
    private func rot(_ directory: String, on reactor: Reactor) async throws {
        let name = try #require(
            FileManager.default.contentsOfDirectory(atPath: directory)
                .filter { $0.hasPrefix("segment-") }.max())
        let path = "\(directory)/\(name)"
        let sequence = try #require(LogFile.number(name, prefix: LogFile.segmentPrefix))
        var scan = try await SegmentScan.read(path, sequence: UInt32(sequence), on: reactor)
        var last: Int?
        while let (offset, batch) = try scan.next() {
            if batch.recordCount > 0 { last = offset }
        }
        var data = try Data(contentsOf: URL(fileURLWithPath: path))
        data[try #require(last) + LogBytes.BatchHeader.size + 4] ^= 4
        try data.write(to: URL(fileURLWithPath: path))
    }

    private func expectRefusal(_ directory: String, on reactor: Reactor) async throws {
        let error = await #expect(throws: StoreError.self) {
            try await smallLog(directory, on: reactor)
        }
        #expect(error?.code == .corrupt)
        #expect(error?.message.contains("is damaged at byte") == true)
    }

    @Test("a rotten last batch of a log that was closed is refused, not cut like a torn one")
    func closed() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let path = directory + "/log"
            var log = try await smallLog(path, on: reactor, proofDelay: .seconds(100_000))
            try await append(5, to: log)
            try await log.close()
            // What was proven once is not proven again, and the log goes on behind the proof.
            for expected in [5, 8] as [UInt64] {
                log = try await smallLog(path, on: reactor, proofDelay: .seconds(100_000))
                #expect(await log.isProven)
                #expect(log.group(id)?.lastIndex == expected)
                if expected == 5 { try await append(3, to: log) }
                try await log.close()
            }
            try await rot(path, on: reactor)
            try await expectRefusal(path, on: reactor)
        }
    }

    @Test("so it is in a log at rest, however its process ended")
    func atRest() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let path = directory + "/log"
            let log = try await smallLog(path, on: reactor, proofDelay: .milliseconds(2))
            // Segments are begun in between: what is at a segment's end is proven by the next.
            for round in 1...20 {
                try await append(1, to: log)
                while await !log.isAtRest { try await reactor.sleep(for: .milliseconds(1)) }
                let hasProof = await log.isProven
                let copy = directory + "/copy-\(round)"
                let rotten = directory + "/rotten-\(round)"
                try FileManager.default.copyItem(atPath: path, toPath: copy)
                try FileManager.default.copyItem(atPath: path, toPath: rotten)
                let found = try await smallLog(copy, on: reactor)
                #expect(found.group(id)?.lastIndex == UInt64(round))
                try await found.close()
                guard hasProof else { continue }
                try await rot(rotten, on: reactor)
                try await expectRefusal(rotten, on: reactor)
            }
            let batches = await log.statistics.batches
            #expect(batches > 30, "\(batches) batches with their proofs")
            try await log.close()
        }
    }

    @Test("without a proof the last batch is taken for torn, as before")
    func unproven() async throws {
        try await withTemporaryDirectory { directory in
            let reactor = try Reactor.start()
            defer { reactor.stop() }
            let path = directory + "/log"
            var log = try await smallLog(path, on: reactor)
            try await append(5, to: log)
            try await log.close()
            try await rot(path, on: reactor)
            log = try await smallLog(path, on: reactor)
            #expect(log.group(id)?.lastIndex == 4)
            try await log.close()
        }
    }
}

extension SharedLog {
    /// Whether it writes nothing more by itself.
    var isAtRest: Bool {
        maintenance == nil && (isProven || capacity - end < LogBytes.blockSize)
    }
}
