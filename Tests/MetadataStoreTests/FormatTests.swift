import GRDB
import Model
import Testing

@testable import MetadataStore

@Suite("MetadataStore: formats and shortage")
struct FormatTests {
    private static let table = MetadataTable(1)

    private func open(
        _ directory: String, _ format: TablesFormat
    ) async throws(StoreError) -> MetadataStore {
        try await MetadataStore.open(
            path: directory + "/m.db", role: "test", tables: [Self.table, MetadataTable(2)],
            format: format)
    }

    @Test("tables of an older format are opened as they are, and bear the current one from then on")
    func older() async throws {
        try await withTemporaryDirectory { directory in
            let first = try await open(directory, .first)
            try await first.apply(through: 1) { $0.put(Self.table, [1], [2]) }
            try await first.close()
            let later = TablesFormat(current: 3, oldest: 1)
            let second = try await open(directory, later)
            #expect(second.appliedIndex == 1)
            let value = try await second.read { tables in tables.get(Self.table, [1]) }
            #expect(value == [2])
            try await second.close()
            // The program of before would misread what may be there now.
            let error = await #expect(throws: StoreError.self) { try await open(directory, .first) }
            #expect(error?.code == .versionMismatch)
            #expect(error?.message.contains("format 3") == true)
            let tooOld = await #expect(throws: StoreError.self) {
                try await open(directory, TablesFormat(current: 5, oldest: 4))
            }
            #expect(tooOld?.message.contains("formats 4 to 5") == true)
            let third = try await open(directory, later)
            try await third.close()
        }
    }

    @Test("a snapshot of an older format is taken, one of a newer format is refused")
    func snapshots() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/copy.db"
            let old = try await MetadataStore.open(
                path: directory + "/old.db", role: "test", tables: [Self.table])
            try await old.apply(through: 7) { $0.put(Self.table, [1], [2]) }
            try await old.copy(to: path)
            try await old.close()
            let store = try await open(directory, TablesFormat(current: 2, oldest: 1))
            try await store.replace(with: path, index: 7)
            #expect(try await store.read { $0.get(Self.table, [1]) } == [2])
            let newer = directory + "/newer.db"
            try await store.copy(to: newer)
            try await store.close()
            let first = try await MetadataStore.open(
                path: directory + "/first.db", role: "test", tables: [Self.table])
            let error = await #expect(throws: StoreError.self) {
                try await first.replace(with: newer, index: 7)
            }
            #expect(error?.code == .versionMismatch)
            #expect(error?.message.contains("format 2") == true)
            try await first.close()
        }
    }

    @Test("what SQLite lacks is told from what is broken")
    func shortage() async throws {
        try await withTemporaryDirectory { directory in
            let store = try await open(directory, .first)
            try await store.close()
            let path = directory + "/m.db"
            let cases: [(ResultCode, String, StoreError.Code)] = [
                (.SQLITE_FULL, path, .noSpace), (.SQLITE_NOMEM, path, .overloaded),
                (.SQLITE_IOERR_NOMEM, path, .overloaded), (.SQLITE_CANTOPEN, path, .overloaded),
                (.SQLITE_CANTOPEN, directory + "/absent.db", .io), (.SQLITE_IOERR, path, .io),
                (.SQLITE_IOERR_WRITE, path, .io), (.SQLITE_CORRUPT, path, .corrupt),
            ]
            for (result, path, expected) in cases {
                let error = MetadataStore.storeError(DatabaseError(resultCode: result), path)
                #expect(error.code == expected, "\(result)")
            }
        }
    }
}
