import Model
import Wire

/// How requests reach the Ozone Manager: over a connection, or by a call in the same process.
public protocol OMCaller: Sendable {
    /// Sends one request and returns its response, both encoded messages of om.proto.
    /// Throws what the Ozone Manager threw, or `connection` and the like on the way.
    func call(_ method: OMMethod, _ message: [UInt8]) async throws(StoreError) -> [UInt8]
}

/// The Ozone Manager's requests in the terms of `ObjectStore`: all of it that is about names.
///
/// Writers and readers of bytes are built on `openKey`, `allocateGroup`, `commit` and `key`.
public struct OMClient<Caller: OMCaller>: Sendable {
    public let caller: Caller

    public init(_ caller: Caller) { self.caller = caller }

    // MARK: Users

    public func createUser(_ user: UserInfo) async throws(StoreError) {
        var request = OMCreateUserRequest()
        request.user = user.message
        _ = try await caller.call(.createUser, request.encoded)
    }

    public func user(accessKeyID: String) async throws(StoreError) -> UserInfo? {
        var request = OMUserByAccessKeyRequest()
        request.accessKeyID = accessKeyID
        let response = try OMUserResponse(
            parsing: try await caller.call(.userByAccessKey, request.encoded))
        return response.hasUser ? UserInfo(response.user) : nil
    }

    public func user(named name: String) async throws(StoreError) -> UserInfo? {
        var request = OMUserByNameRequest()
        request.name = name
        let response = try OMUserResponse(
            parsing: try await caller.call(.userByName, request.encoded))
        return response.hasUser ? UserInfo(response.user) : nil
    }

    public func users() async throws(StoreError) -> [UserInfo] {
        var request = OMListUsersRequest()
        request.limit = OMClientLimits.page
        var users: [UserInfo] = []
        repeat {
            let response = try OMListUsersResponse(
                parsing: try await caller.call(.listUsers, request.encoded))
            users += response.users.map { UserInfo($0) }
            request.startAfter = response.next
        } while !request.startAfter.isEmpty
        return users
    }

    public func deleteUser(named name: String) async throws(StoreError) {
        var request = OMDeleteUserRequest()
        request.name = name
        _ = try await caller.call(.deleteUser, request.encoded)
    }

    // MARK: Volumes

    public func createVolume(_ name: String, user: String) async throws(StoreError) {
        var request = OMCreateVolumeRequest()
        request.name = name
        request.user = user
        _ = try await caller.call(.createVolume, request.encoded)
    }

    public func volumes(user: String) async throws(StoreError) -> [VolumeInfo] {
        var request = OMListVolumesRequest()
        request.user = user
        request.limit = OMClientLimits.page
        var volumes: [VolumeInfo] = []
        repeat {
            let response = try OMListVolumesResponse(
                parsing: try await caller.call(.listVolumes, request.encoded))
            volumes += response.volumes.map {
                VolumeInfo(
                    name: $0.name, owner: $0.owner, created: Timestamp(milliseconds: $0.created))
            }
            request.startAfter = response.next
        } while !request.startAfter.isEmpty
        return volumes
    }

    public func deleteVolume(_ name: String, user: String) async throws(StoreError) {
        var request = OMDeleteVolumeRequest()
        request.name = name
        request.user = user
        _ = try await caller.call(.deleteVolume, request.encoded)
    }

    // MARK: Buckets

    public func createBucket(
        _ bucket: BucketPath, replication: ReplicationConfig?, user: String
    ) async throws(StoreError) {
        var request = OMCreateBucketRequest()
        request.bucket = bucket.message
        if let replication { request.replication = replication.message }
        request.user = user
        _ = try await caller.call(.createBucket, request.encoded)
    }

    public func bucket(
        _ bucket: BucketPath, user: String
    ) async throws(StoreError) -> BucketInfo {
        let request = bucketRequest(bucket, user: user)
        return try BucketInfo(
            OMBucket(parsing: try await caller.call(.bucket, request.encoded)))
    }

    public func buckets(
        volume: String, user: String
    ) async throws(StoreError) -> [BucketInfo] {
        var request = OMListBucketsRequest()
        request.volume = volume
        request.user = user
        request.limit = OMClientLimits.page
        var buckets: [BucketInfo] = []
        repeat {
            let response = try OMListBucketsResponse(
                parsing: try await caller.call(.listBuckets, request.encoded))
            for bucket in response.buckets { buckets.append(try BucketInfo(bucket)) }
            request.startAfter = response.next
        } while !request.startAfter.isEmpty
        return buckets
    }

    public func deleteBucket(_ bucket: BucketPath, user: String) async throws(StoreError) {
        _ = try await caller.call(
            .deleteBucket, bucketRequest(bucket, user: user).encoded)
    }

    private func bucketRequest(_ bucket: BucketPath, user: String) -> OMBucketRequest {
        var request = OMBucketRequest()
        request.bucket = bucket.message
        request.user = user
        return request
    }

    // MARK: Keys

    /// A page of as many keys as were asked for, but for the most that the Ozone Manager gives at
    /// once (10,000), whatever bytes they take: it is asked again for what did not go into one
    /// answer.
    public func list(
        _ bucket: BucketPath, _ query: ListQuery, user: String
    ) async throws(StoreError) -> ListPage {
        var page = try await answeredList(bucket, query, user: user)
        var rest = query
        while let next = page.next {
            rest.limit =
                min(query.limit, Int(OMClientLimits.page))
                - page.keys.count - page.commonPrefixes.count
            guard rest.limit > 0 else { break }
            rest.startAfter = next
            let more = try await answeredList(bucket, rest, user: user)
            page.keys += more.keys
            page.commonPrefixes += more.commonPrefixes
            page.next = more.next
        }
        return page
    }

    /// What goes into one answer.
    private func answeredList(
        _ bucket: BucketPath, _ query: ListQuery, user: String
    ) async throws(StoreError) -> ListPage {
        var request = OMListKeysRequest()
        request.bucket = bucket.message
        request.prefix = .octets(query.prefix)
        request.delimiter = .octets(query.delimiter)
        request.startAfter = .octets(query.startAfter)
        request.limit = UInt32(clamping: query.limit)
        request.user = user
        request.withoutAttributes = !query.wantsAttributes
        request.withoutChecksums = !query.wantsChecksums
        let response = try OMListKeysResponse(
            parsing: try await caller.call(.listKeys, request.encoded))
        var page = ListPage(
            commonPrefixes: response.commonPrefixes.map(\.octets),
            next: response.hasNext ? response.next.octets : nil)
        page.keys.reserveCapacity(response.keys.count)
        for key in response.keys { page.keys.append(try KeyInfo(key)) }
        return page
    }

    /// - Parameter refresh: has SCM asked again where the blocks are, after a place was found
    ///   to be stale.
    public func key(
        _ key: KeyPath, _ selection: KeySelection = .all, refresh: Bool = false, user: String
    ) async throws(StoreError) -> KeyInfo {
        var request = OMLookupKeyRequest()
        request.key = key.message
        request.refresh = refresh
        request.user = user
        if let selection = selection.message { request.selection = selection }
        let response = try OMKeyResponse(
            parsing: try await caller.call(.lookupKey, request.encoded))
        let end = response.excerpt.first?.groupsEnd ?? 0
        guard end > 0 else { return try KeyInfo(response, selection) }
        return try await whole(response, selection, from: end, request)
    }

    /// Holds blocks that are being read for one grace more, which is returned: so long they stay
    /// if they are discarded meanwhile. At most 4096 at once.
    public func holdBlocks(_ blocks: [BlockID]) async throws(StoreError) -> Duration {
        var request = OMHoldBlocksRequest()
        request.blocks = blocks.map(\.message)
        let response = try OMHoldBlocksResponse(
            parsing: try await caller.call(.holdBlocks, request.encoded))
        return .milliseconds(Int64(clamping: response.graceMilliseconds))
    }

    /// Opens a key for writing; the first block groups come with it.
    /// - Parameter slow: nodes that are to have no place in them, if there are whole groups without.
    public func openKey(
        _ key: KeyPath, length: Int?, replication: ReplicationConfig?, user: String,
        avoiding slow: Set<DatanodeID> = []
    ) async throws(StoreError) -> OpenKey {
        var request = OMOpenKeyRequest()
        request.key = key.message
        if let length { request.length = UInt64(clamping: length) }
        if let replication { request.replication = replication.message }
        request.user = user
        request.avoiding = slow.sorted().map(\.message)
        let response = try OMOpenResponse(
            parsing: try await caller.call(.openKey, request.encoded))
        return try OpenKey(response, key: key, part: nil, user: user)
    }

    /// Opens part `number` of an upload for writing. `slow` as in `openKey`.
    public func openPart(
        _ key: KeyPath, upload: UploadID, number: Int, length: Int?, user: String,
        avoiding slow: Set<DatanodeID> = []
    ) async throws(StoreError) -> OpenKey {
        var request = OMOpenPartRequest()
        request.key = key.message
        request.upload = upload.identity.message
        request.number = UInt32(clamping: number)
        if let length { request.length = UInt64(clamping: length) }
        request.user = user
        request.avoiding = slow.sorted().map(\.message)
        let response = try OMOpenResponse(
            parsing: try await caller.call(.openPart, request.encoded))
        return try OpenKey(response, key: key, part: (upload, number), user: user)
    }

    /// Opens `count` keys of a bucket whose names are told when they are committed, each with one
    /// block group. `slow` as in `openKey`.
    func reserve(
        _ bucket: BucketPath, count: Int, user: String, avoiding slow: Set<DatanodeID> = []
    ) async throws(StoreError) -> [KeyReservations.Reserved] {
        var request = OMReserveRequest()
        request.bucket = bucket.message
        request.count = UInt32(clamping: count)
        request.user = user
        request.avoiding = slow.sorted().map(\.message)
        let response = try OMReserveResponse(
            parsing: try await caller.call(.reserve, request.encoded))
        guard response.openIds.count == response.groups.count else {
            throw StoreError(
                .badRequest,
                "the Ozone Manager reserved \(response.openIds.count) keys with "
                    + "\(response.groups.count) groups")
        }
        var reserved: [KeyReservations.Reserved] = []
        for (id, group) in zip(response.openIds, response.groups) {
            reserved.append(.init(id: id, group: try BlockGroup(group)))
        }
        return reserved
    }

    /// One more block group for an open key, not where `excluding` says.
    public func allocateGroup(
        _ open: OpenKey, excluding: ExcludeList = .none
    ) async throws(StoreError) -> BlockGroup {
        var request = OMAllocateGroupRequest()
        request.openID = open.id
        request.excluding = excluding.nodes.sorted().map(\.message)
        request.slow = excluding.slowNodes.sorted().map(\.message)
        request.excludingContainers = excluding.containers.sorted().map(\.rawValue)
        request.whole = excluding.degradedGroups
        request.user = open.user
        let response = try OMAllocateGroupResponse(
            parsing: try await caller.call(.allocateGroup, request.encoded))
        return try BlockGroup(response.group)
    }

    /// Makes an open key or part visible; it consists of `groups`, with their lengths, in order.
    /// May be repeated when the answer was lost.
    public func commit(
        _ open: OpenKey, groups: [BlockGroup], _ commit: KeyCommit
    ) async throws(StoreError) -> KeyInfo {
        var request = OMCommitRequest()
        request.openID = open.id
        request.key = open.key.message
        if let part = open.part {
            request.upload = part.upload.identity.message
            request.part = UInt32(clamping: part.number)
        }
        request.groups = groups.map { group in
            var message = WireGroup()
            message.block = group.blockID.message
            message.length = UInt64(group.length)
            return message
        }
        request.etag = commit.etag
        request.attributes = commit.attributes.message
        if let checksum = commit.checksum { request.checksum = checksum.message }
        request.condition = commit.condition.message
        request.user = open.user
        var response = try OMKeyResponse(parsing: try await caller.call(.commit, request.encoded))
        // The answer has no places: they are those that were written to.
        let places = Dictionary(
            groups.map { ($0.blockID, $0.nodes) }, uniquingKeysWith: { first, _ in first })
        for index in response.key.groups.indices {
            let group = response.key.groups[index]
            let width = try ReplicationConfig(group.replication).width
            let nodes = places[BlockID(group.block)] ?? Array(repeating: nil, count: width)
            response.key.groups[index].nodes = nodes.map { $0?.message ?? WireAddress() }
        }
        return try KeyInfo(response.key)
    }

    /// Gives an open key up. No error if it is gone.
    public func abort(_ open: OpenKey) async throws(StoreError) {
        var request = OMAbortOpenRequest()
        request.openID = open.id
        request.user = open.user
        _ = try await caller.call(.abortOpen, request.encoded)
    }

    public func deleteKey(
        _ key: KeyPath, condition: WriteCondition, user: String
    ) async throws(StoreError) -> Bool {
        var request = OMDeleteKeyRequest()
        request.key = key.message
        request.condition = condition.message
        request.user = user
        return try OMDeleteKeyResponse(
            parsing: try await caller.call(.deleteKey, request.encoded)
        ).existed
    }

}

extension OpenKey {
    init(
        _ response: OMOpenResponse, key: KeyPath, part: (upload: UploadID, number: Int)?,
        user: String
    ) throws(StoreError) {
        var groups: [BlockGroup] = []
        for group in response.groups { groups.append(try BlockGroup(group)) }
        self.init(
            id: response.openID, key: key, part: part, user: user,
            replication: try ReplicationConfig(response.replication), groups: groups)
    }
}
