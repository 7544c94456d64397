import Wire

extension OMMethod {
    enum OfUsers { case createUser, userByAccessKey, userByName, listUsers, deleteUser }

    enum OfBuckets {
        case createVolume, listVolumes, deleteVolume
        case createBucket, bucket, listBuckets, deleteBucket
    }

    enum OfKeys {
        case listKeys, lookupKey, openKey, openPart, reserve, allocateGroup, commit, abortOpen
        case deleteKey, holdBlocks
    }

    enum OfUploads {
        case createUpload, upload, listParts, completeUpload, abortUpload, listUploads
    }

    /// What a method is about: who answers it, in types that let each of them be sure to answer
    /// all of its methods, and no others.
    enum Subject {
        case user(OfUsers)
        case bucket(OfBuckets)
        case key(OfKeys)
        case upload(OfUploads)
    }

    var subject: Subject {
        switch self {
        case .createUser: .user(.createUser)
        case .userByAccessKey: .user(.userByAccessKey)
        case .userByName: .user(.userByName)
        case .listUsers: .user(.listUsers)
        case .deleteUser: .user(.deleteUser)
        case .createVolume: .bucket(.createVolume)
        case .listVolumes: .bucket(.listVolumes)
        case .deleteVolume: .bucket(.deleteVolume)
        case .createBucket: .bucket(.createBucket)
        case .bucket: .bucket(.bucket)
        case .listBuckets: .bucket(.listBuckets)
        case .deleteBucket: .bucket(.deleteBucket)
        case .listKeys: .key(.listKeys)
        case .lookupKey: .key(.lookupKey)
        case .openKey: .key(.openKey)
        case .openPart: .key(.openPart)
        case .reserve: .key(.reserve)
        case .allocateGroup: .key(.allocateGroup)
        case .commit: .key(.commit)
        case .abortOpen: .key(.abortOpen)
        case .deleteKey: .key(.deleteKey)
        case .holdBlocks: .key(.holdBlocks)
        case .createUpload: .upload(.createUpload)
        case .upload: .upload(.upload)
        case .listParts: .upload(.listParts)
        case .completeUpload: .upload(.completeUpload)
        case .abortUpload: .upload(.abortUpload)
        case .listUploads: .upload(.listUploads)
        }
    }
}
