import Bytes
import ContainerFormat
import Model
import Testing

@testable import ContainerStore

/// Blocks 1…`count` of a closed container, whose bytes the test knows.
struct Sample: Sendable {
    static let id = ContainerID(1)
    static let count: UInt64 = 6
    let bytes: [UInt64: [UInt8]] = Dictionary(
        uniqueKeysWithValues: (1...Self.count).map {
            ($0, pattern(Int($0) * 40_000 + Int($0), seed: 77 + $0))
        })

    func write(_ store: ContainerStore) async throws {
        try await store.createContainer(Self.id, replication: replication, replicaIndex: 1)
        for (localID, bytes) in bytes.sorted(by: { $0.key < $1.key }) {
            for start in stride(from: 0, to: bytes.count, by: 65_536) {
                let end = min(bytes.count, start + 65_536)
                try await store.append(
                    cell(
                        blockID(localID), at: start, Array(bytes[start..<end]),
                        group: 3 * bytes.count, ended: end == bytes.count))
            }
        }
        try await store.closeContainer(Self.id)
    }

    /// What others make of a damaged range.
    func make(_ damaged: DamagedRange) throws(StoreError) -> Payload {
        guard let bytes = bytes[damaged.block.localID] else {
            throw StoreError(.noSuchBlock, "\(damaged.block)")
        }
        return Payload(copying: bytes[damaged.range], pool: .process)
    }

    func heal(_ store: ContainerStore) async throws(StoreError) -> HealSummary {
        try await store.heal(Self.id, replicaIndex: 1) { damaged throws(StoreError) in
            try make(damaged)
        }
    }

    /// Reads all; what is read must be right. Returns how many blocks cannot be read.
    func read(_ store: ContainerStore, deleted: Set<UInt64> = []) async -> Int {
        var failures = 0
        for (localID, bytes) in bytes where !deleted.contains(localID) {
            var found: [UInt8] = []
            let error = await refusal { found = try await store.bytes(of: blockID(localID)) }
            if error != nil { failures += 1 }
            #expect(error != nil || found == bytes, "block \(localID)")
        }
        return failures
    }
}

func dataPath(_ directory: String) -> String {
    "\(directory)/v1/containers/container-1.data"
}

func journalPath(_ directory: String) -> String {
    "\(directory)/v1/containers/container-1.journal"
}

/// Where `localID`'s byte `offset` lies in the data file: blocks lie in their order.
func place(_ sample: Sample, _ localID: UInt64, _ offset: Int) -> Int {
    (1..<localID).reduce(DataFile.start) { $0 + extent(sample, $1) } + offset
}

func extent(_ sample: Sample, _ localID: UInt64) -> Int {
    DataFile.aligned(sample.bytes[localID]!.count)
}

func kept(_ directory: String) -> [String] {
    (try? names(in: "\(directory)/v1/damaged")) ?? []
}
