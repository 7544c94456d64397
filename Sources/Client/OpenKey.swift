import Model

/// A key or part that is being written: what its writer needs to write and commit it.
public struct OpenKey: Sendable {
    public var id: UInt64
    public var key: KeyPath
    /// The upload and number of a part; nil for a key.
    public var part: (upload: UploadID, number: Int)?
    public var user: String
    public var replication: ReplicationConfig
    /// The first groups to write to, in order; none for an empty key.
    public var groups: [BlockGroup]
}
