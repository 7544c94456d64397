import Checksum
import Model

@testable import ContainerFormat

/// A small generator, so that a failing case can be named by its seed.
struct Noise: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state &* 0x2545_F491_4F6C_DD1D
    }
}

func sampleHeader(_ id: UInt64 = 7, index: Int = 2) throws -> ContainerHeader {
    ContainerHeader(
        containerID: ContainerID(id), replication: try ReplicationConfig("rs-3-2-1024k"),
        replicaIndex: index)
}

func cellRecord(
    _ localID: UInt64, offset: Int = 0, length: Int = 20_000, at fileOffset: Int = 4096,
    group: Int = 60_000, ended: Bool = false
) -> JournalRecord {
    .cell(
        .init(offset: offset, length: length, fileOffset: fileOffset),
        checksums: (0..<CRC32C.unitCount(length)).map { UInt32(truncatingIfNeeded: $0 * 77 + 1) },
        .init(localID: localID, groupLength: group, isEnded: ended))
}

let everyKind: [JournalRecord] = [
    cellRecord(1), cellRecord(1, offset: 32_768, length: 1, at: 1 << 40, ended: true),
    .commit(.init(localID: 9, groupLength: 5, isEnded: true)),
    .deleted(localID: 1, length: 24_000, extents: [4096..<24_576, 1 << 40..<(1 << 40) + 4096]),
    .deleted(localID: 9, length: 0, extents: []), .reclaimed(localID: 1),
    .closed(footerOffset: 1 << 20, blockCount: 3, usedBytes: 9),
    .unhealthy, .mark,
    .closed(footerOffset: 8192, blockCount: 1, usedBytes: 2, generation: 1 << 40),
    .recovering(token: 5), .recovered(token: .max),
    .staged(.init(token: 6, length: 5000, fileOffset: 8192), checksums: [1, 2]),
    .adopt(token: 6, offset: 4096, .init(localID: 1, groupLength: 9096, isEnded: false)),
    .drop(token: 7),
    .replaceTail(
        .init(offset: 4096, length: 6000, fileOffset: 1 << 20), checksums: [3, 4],
        .init(localID: 1, groupLength: 10_096, isEnded: true)),
]

extension Journal {
    static func parse(_ bytes: [UInt8]) throws -> Contents {
        try bytes.withUnsafeBytes { try parse($0) }
    }
}

/// A journal file written in batches, each synced, with `ahead` zeros behind.
func journalFile(_ batches: [[JournalRecord]], ahead: Int = 8192) throws -> [UInt8] {
    let header = try sampleHeader()
    var file = header.encoded(for: .journal)
    var tail = JournalTail(Journal(header))
    for batch in batches {
        let write = tail.append(batch)
        file.removeLast(file.count - write.offset)
        file += write.bytes
        tail.synced()
    }
    return file + [UInt8](repeating: 0, count: ahead)
}

func randomEntry(_ localID: UInt64, _ noise: inout Noise) -> BlockEntry {
    var entry = BlockEntry(
        localID: localID, groupLength: Int.random(in: 0...1 << 40, using: &noise),
        isEnded: Bool.random(using: &noise))
    let count = Int.random(in: 0...20, using: &noise)
    for number in 0..<count {
        let length =
            number + 1 < count
            ? 4096 * Int.random(in: 1...256, using: &noise)
            : Int.random(in: 1...1 << 20, using: &noise)
        let sums = (0..<CRC32C.unitCount(length)).map { _ in
            UInt32(truncatingIfNeeded: noise.next())
        }
        let cell = BlockEntry.Cell(
            offset: entry.length, length: length,
            fileOffset: 4096 * Int.random(in: 1...1 << 24, using: &noise))
        guard (try? entry.append(cell, checksums: sums)) != nil else { break }
    }
    return entry
}
