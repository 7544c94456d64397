import Model

/// Reads the rows of SCM's tables, none of which may be passed over.
enum SCMRows {
    /// Calls `body` with the row of `SCMTable.values` at `key`, if there is one.
    static func value(
        _ key: [UInt8], in tables: some MetadataReader,
        _ body: (_ row: [UInt8]) throws(StoreError) -> Void
    ) throws(StoreError) {
        guard let row = tables.get(SCMTable.values, key) else { return }
        do throws(StoreError) {
            try body(row)
        } catch {
            throw unreadable(SCMTable.values, key, error)
        }
    }

    /// Calls `body` with each row of `table`. What it throws ends this, and is thrown with the
    /// table and the key of the row.
    static func each(
        of table: MetadataTable, in tables: some MetadataReader,
        _ body: (_ key: [UInt8], _ row: [UInt8]) throws(StoreError) -> Void
    ) throws(StoreError) {
        var failure: StoreError?
        tables.scan(table, from: []) { key, row in
            do throws(StoreError) {
                try body(key, row)
                return true
            } catch {
                failure = unreadable(table, key, error)
                return false
            }
        }
        if let failure { throw failure }
    }

    /// The number that all of `bytes` are.
    static func number(_ bytes: [UInt8]) throws(StoreError) -> UInt64 {
        guard bytes.count == 8 else {
            throw StoreError(.corrupt, "a number of \(bytes.count) bytes instead of 8")
        }
        return bytes.bigEndian(at: 0)
    }

    private static func unreadable(
        _ table: MetadataTable, _ key: [UInt8], _ error: StoreError
    ) -> StoreError {
        StoreError(
            .corrupt,
            "the row of SCM's \(table) at key \(key.hexadecimal) cannot be read: "
                + "\(error.message); put the metadata back from a copy")
    }
}
