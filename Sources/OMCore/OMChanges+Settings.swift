import Model
import Wire

// What buckets set: documents that this neither reads nor checks, but for their size.

extension OMChanges {
    func putSetting(_ command: OMPutSettingCommand) throws(StoreError) {
        let bucket = try reads.bucket(command.bucket, user: command.user)
        let kind = try settingKind(command.kind)
        guard command.version > 0 else {
            throw StoreError(.invalidArgument, "the versions of a \(kind) setting begin with 1")
        }
        guard command.document.count <= OMLimits.settingSize else {
            throw StoreError(
                .invalidArgument,
                "a setting of a bucket has at most \(OMLimits.settingSize) bytes, "
                    + "not \(command.document.count)")
        }
        var record = OMSettingRecord()
        record.version = command.version
        record.generation = index
        record.document = command.document
        put(OMTable.settings, OMTableKey.setting(bucket: bucket.number, kind), record)
    }

    /// One that is not there is no error: deleting may be repeated.
    func deleteSetting(_ command: OMDeleteSettingCommand) throws(StoreError) {
        let bucket = try reads.bucket(command.bucket, user: command.user)
        let kind = try settingKind(command.kind)
        transaction.delete(OMTable.settings, OMTableKey.setting(bucket: bucket.number, kind))
    }

    /// Takes away all settings of a bucket that is deleted: one of each kind at most.
    func deleteSettings(of bucket: UInt64) {
        let found = transaction.entries(
            OMTable.settings, prefix: OMTableKey.number(bucket), limit: Int(UInt16.max))
        for entry in found { transaction.delete(OMTable.settings, entry.key) }
    }

    private func settingKind(_ number: UInt32) throws(StoreError) -> BucketSettingKind {
        guard let kind = UInt16(exactly: number).flatMap({ BucketSettingKind(rawValue: $0) })
        else {
            throw StoreError(
                .unsupported, "settings of kind \(number) are not known to this version")
        }
        return kind
    }
}
