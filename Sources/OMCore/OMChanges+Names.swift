import Model
import Wire

// Users, volumes and buckets.

extension OMChanges {
    func createUser(_ user: OMUser) throws(StoreError) {
        try NameRules.checkUser(user.name)
        try NameRules.checkAccessKey(user.accessKeyID)
        guard !user.secretAccessKey.isEmpty else {
            throw StoreError(.invalidArgument, "a user needs a secret access key")
        }
        guard transaction.get(OMTable.users, OMTableKey.user(user.name)) == nil else {
            throw StoreError(.userExists, "there is already a user '\(user.name)'")
        }
        let accessKey = OMTableKey.accessKey(user.accessKeyID)
        guard transaction.get(OMTable.accessKeys, accessKey) == nil else {
            throw StoreError(
                .userExists, "the access key ID '\(user.accessKeyID)' belongs to another user")
        }
        var record = OMUserRecord()
        record.user = user
        let volume = OMTableKey.volume(OMStateMachine.s3Volume)
        if transaction.get(OMTable.volumes, volume) == nil {
            putVolume(OMStateMachine.s3Volume, owner: user.name)
            record.volumes = 1
        }
        put(OMTable.users, OMTableKey.user(user.name), record)
        transaction.put(OMTable.accessKeys, accessKey, Array(user.name.utf8))
    }

    func deleteUser(_ name: String) throws(StoreError) {
        let key = OMTableKey.user(name)
        guard let record: OMUserRecord = try reads.record(OMTable.users, key) else {
            throw StoreError(.noSuchUser, "there is no user '\(name)'")
        }
        guard record.volumes == 0, record.buckets == 0 else {
            throw StoreError(
                .invalidArgument,
                "user '\(name)' still owns \(record.volumes) volumes and \(record.buckets) "
                    + "buckets; delete those first")
        }
        transaction.delete(OMTable.users, key)
        transaction.delete(OMTable.accessKeys, OMTableKey.accessKey(record.user.accessKeyID))
    }

    func createVolume(_ request: OMCreateVolumeRequest) throws(StoreError) {
        try NameRules.checkVolume(request.name)
        var owner = try reads.caller(request.user)
        guard transaction.get(OMTable.volumes, OMTableKey.volume(request.name)) == nil else {
            throw StoreError(.volumeExists, "there is already a volume '\(request.name)'")
        }
        putVolume(request.name, owner: request.user)
        owner.volumes += 1
        put(OMTable.users, OMTableKey.user(request.user), owner)
    }

    private func putVolume(_ name: String, owner: String) {
        var volume = OMVolume()
        volume.name = name
        volume.owner = owner
        volume.created = time
        put(OMTable.volumes, OMTableKey.volume(name), volume)
    }

    func deleteVolume(_ request: OMDeleteVolumeRequest) throws(StoreError) {
        let volume = try reads.volume(request.name)
        let caller = try reads.caller(request.user)
        guard caller.user.isAdministrator || volume.owner == request.user else {
            throw StoreError(
                .accessDenied,
                "the volume '\(request.name)' does not belong to '\(request.user)'")
        }
        guard request.name != OMStateMachine.s3Volume else {
            throw StoreError(
                .invalidArgument, "the volume '\(request.name)' holds S3's buckets and stays")
        }
        let prefix = OMTableKey.bucketPrefix(volume: request.name)
        guard !transaction.containsKey(OMTable.buckets, prefix: prefix) else {
            throw StoreError(.volumeNotEmpty, "the volume '\(request.name)' still has buckets")
        }
        transaction.delete(OMTable.volumes, OMTableKey.volume(request.name))
        try changeOwned(by: volume.owner) { $0.volumes -= min($0.volumes, 1) }
    }

    func createBucket(_ request: OMCreateBucketCommand) throws(StoreError) {
        let path = request.bucket
        try NameRules.checkBucket(path.bucket)
        try OMReads.check(request.layout, of: path)
        let replication = try ReplicationConfig(writable: request.replication)
        var caller = try reads.caller(request.user)
        let volume = try reads.volume(path.volume)
        guard
            caller.user.isAdministrator || volume.owner == request.user
                || volume.name == OMStateMachine.s3Volume
        else {
            throw StoreError(
                .accessDenied, "the volume '\(path.volume)' does not belong to '\(request.user)'")
        }
        let key = OMTableKey.bucket(path)
        if let existing: OMBucketRecord = try reads.record(OMTable.buckets, key) {
            let isYours = existing.bucket.owner == request.user
            throw StoreError(
                isYours ? .bucketOwnedByYou : .bucketExists,
                "there is already a bucket '/\(path.volume)/\(path.bucket)'")
        }
        guard caller.buckets < OMLimits.bucketsPerUser else {
            throw StoreError(
                .tooManyBuckets,
                "'\(request.user)' owns \(caller.buckets) buckets, which is the most allowed")
        }
        var record = OMBucketRecord()
        record.number = index
        record.bucket.volume = path.volume
        record.bucket.name = path.bucket
        record.bucket.owner = request.user
        record.bucket.ownerCanonicalID = caller.user.canonicalID
        record.bucket.ownerDisplayName = caller.user.displayName
        record.bucket.created = time
        record.bucket.replication = replication.message
        record.bucket.layout = request.layout
        put(OMTable.buckets, key, record)
        beginUsage(of: index)
        caller.buckets += 1
        put(OMTable.users, OMTableKey.user(request.user), caller)
    }

    /// Deletes a bucket without keys. Its uploads in progress are out of reach from then on, since
    /// no bucket has their number any more; `expireUploads` takes them away afterwards, however
    /// many there are.
    func deleteBucket(_ request: OMBucketRequest) throws(StoreError) {
        let bucket = try reads.bucket(request.bucket, user: request.user)
        let scope = OMTableKey.number(bucket.number)
        let path = "/\(request.bucket.volume)/\(request.bucket.bucket)"
        guard !transaction.containsKey(OMTable.keys, prefix: scope) else {
            throw StoreError(.bucketNotEmpty, "the bucket '\(path)' still has keys")
        }
        if bucket.keepsHistory, transaction.containsKey(OMTable.history, prefix: scope) {
            throw StoreError(
                .bucketNotEmpty, "the bucket '\(path)' still has earlier versions of keys")
        }
        deleteSettings(of: bucket.number)
        transaction.delete(OMTable.usage, scope)
        transaction.delete(OMTable.buckets, OMTableKey.bucket(request.bucket))
        try changeOwned(by: bucket.bucket.owner) { $0.buckets -= min($0.buckets, 1) }
    }

    private func changeOwned(
        by name: String, _ change: (inout OMUserRecord) -> Void
    ) throws(StoreError) {
        let key = OMTableKey.user(name)
        guard var owner: OMUserRecord = try reads.record(OMTable.users, key) else { return }
        change(&owner)
        put(OMTable.users, key, owner)
    }
}
