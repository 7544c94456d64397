import Model
import Wire

/// What a bucket can set. The numbers are part of the format on disk.
public enum BucketSettingKind: UInt16, Hashable, Sendable, CaseIterable {
    case policy = 1
    case cors = 2
    case lifecycle = 3
    case encryption = 4
    case objectLock = 5
    case notification = 6
}

/// A setting as those see it who act on it.
public protocol BucketSetting: Sendable {
    static var kind: BucketSettingKind { get }
    /// The newest version of its document that is known. All older ones are.
    static var version: UInt32 { get }

    /// What `document` of `version` says, `corrupt` if it cannot be read. It was checked when it was put.
    init(document: [UInt8], version: UInt32) throws(StoreError)
}

extension OMReads {
    /// What the bucket of this number sets, and the generation that it has, which is another one
    /// whenever it has changed; nil if it sets nothing of this kind.
    ///
    /// Throws `versionMismatch` with the number for a document of a later version, `corrupt`.
    func setting<Setting: BucketSetting>(
        _ type: Setting.Type = Setting.self, of bucket: UInt64
    ) throws(StoreError) -> (setting: Setting, generation: UInt64)? {
        let key = OMTableKey.setting(bucket: bucket, Setting.kind)
        guard let record: OMSettingRecord = try record(OMTable.settings, key) else { return nil }
        guard record.version <= Setting.version else {
            throw StoreError(
                .versionMismatch,
                "a \(Setting.kind) setting has version \(record.version); this program reads up to "
                    + "version \(Setting.version)")
        }
        let setting = try Setting(document: record.document.octets, version: record.version)
        return (setting, record.generation)
    }
}
