/// What can be asked of the Ozone Manager. Each has a request and a response in om.proto.
///
/// Numbers are part of the protocol: never reuse one for something else.
public enum OMMethod: UInt16, Hashable, Sendable, CaseIterable {
    case createUser = 0x0101
    case userByAccessKey = 0x0102
    case userByName = 0x0103
    case listUsers = 0x0104
    case deleteUser = 0x0105

    case createVolume = 0x0111
    case listVolumes = 0x0112
    case deleteVolume = 0x0113

    case createBucket = 0x0121
    case bucket = 0x0122
    case listBuckets = 0x0123
    case deleteBucket = 0x0124

    case listKeys = 0x0131
    case lookupKey = 0x0132
    case openKey = 0x0133
    case allocateGroup = 0x0134
    case commit = 0x0135
    case abortOpen = 0x0136
    case deleteKey = 0x0137
    case reserve = 0x0138
    case holdBlocks = 0x0139

    case createUpload = 0x0141
    case openPart = 0x0142
    case upload = 0x0143
    case listParts = 0x0144
    case completeUpload = 0x0145
    case abortUpload = 0x0146
    case listUploads = 0x0147
}

extension OMMethod {
    /// Whether it changes something: then it is to bear an identity (`CallID`), by which it may be
    /// repeated. What does not may be repeated anyway.
    public var isChange: Bool {
        switch self {
        case .createUser, .deleteUser, .createVolume, .deleteVolume, .createBucket, .deleteBucket,
            .openKey, .allocateGroup, .commit, .abortOpen, .deleteKey, .reserve, .createUpload,
            .openPart, .completeUpload, .abortUpload:
            true
        case .userByAccessKey, .userByName, .listUsers, .listVolumes, .bucket, .listBuckets,
            .listKeys, .lookupKey, .holdBlocks, .upload, .listParts, .listUploads:
            false
        }
    }

    /// Whether a member that does not lead can answer it, from its tables: see `ReadPlace`.
    public var isAnsweredByAny: Bool { !isChange && self != .holdBlocks }
}
