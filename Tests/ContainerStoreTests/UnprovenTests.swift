import ContainerFormat
import Reactor
import Testing

@testable import ContainerStore

@Suite("cells that nothing says to be durable")
struct UnprovenTests {
    /// A cell of block `localID`, which lies in the data file at its record's number.
    private func cell(_ localID: UInt64, _ index: Int) -> JournalRecord {
        .cell(
            .init(offset: 0, length: 1, fileOffset: index), checksums: [],
            .init(localID: localID, groupLength: 1, isEnded: true))
    }

    private func deletion(_ localID: UInt64) -> JournalRecord {
        .deleted(localID: localID, length: 1, extents: [])
    }

    /// Where a journal is to be cut of whose cells those with the records `lost` are not whole.
    private func cut(_ records: [JournalRecord], lost: Set<Int>) async throws -> Int? {
        let cells = UnprovenCells(records, unproven: records.indices)
        return try await cells.firstLost { (cell, _) throws(IOError) in
            !lost.contains(cell.fileOffset)
        }
    }

    @Test("a lost cell is where the journal is cut; one of a deleted block need not be whole")
    func simple() async throws {
        let records = [cell(1, 0), cell(2, 1), deletion(1), cell(3, 3)]
        #expect(try await cut(records, lost: []) == nil)
        #expect(try await cut(records, lost: [0]) == nil)
        #expect(try await cut(records, lost: [0, 3]) == 3)
        #expect(try await cut(records, lost: [3]) == 3)
        #expect(try await cut([cell(1, 0)], lost: [0]) == 0)
    }

    @Test("a deletion that is cut away with a lost cell before it brings back nothing that is lost")
    func cutDeletion() async throws {
        let records = [cell(1, 0), cell(2, 1), deletion(1)]
        #expect(try await cut(records, lost: [1]) == 1, "the first is whole, and stays")
        #expect(try await cut(records, lost: [0, 1]) == 0)
        // Each cut takes a deletion with it.
        let chain = [cell(1, 0), cell(2, 1), deletion(1), cell(3, 3), deletion(2)]
        #expect(try await cut(chain, lost: [0, 1]) == nil)
        #expect(try await cut(chain, lost: [0, 1, 3]) == 0)
    }

    @Test("as much stays as can, of any records")
    func random() async throws {
        var random = SplitMix64(state: 11)
        for _ in 0..<3000 {
            let count = Int.random(in: 1...9, using: &random)
            var records: [JournalRecord] = []
            var deletions: [UInt64: Int] = [:]
            for index in 0..<count {
                let localID = UInt64.random(in: 1...4, using: &random)
                if deletions[localID] == nil, index > 0, Bool.random(using: &random) {
                    deletions[localID] = index
                    records.append(deletion(localID))
                } else {
                    records.append(cell(localID, index))
                }
            }
            let lost = Set((0..<count).filter { _ in Bool.random(using: &random) })
            /// Whether nothing that is lost would be there if only `length` records stayed.
            func isSound(_ length: Int) -> Bool {
                records.prefix(length).indices.allSatisfy { index in
                    guard case .cell(_, _, let commit) = records[index], lost.contains(index)
                    else { return true }
                    return deletions[commit.localID].map { $0 < length } ?? false
                }
            }
            let most = (0...count).last(where: isSound)!
            let found = try await cut(records, lost: lost)
            #expect((found ?? count) == most, "\(records) without \(lost)")
        }
    }
}
