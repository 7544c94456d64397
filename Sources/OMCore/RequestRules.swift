import Model
import Wire

/// How large what a request brings may be, checked before anything is made of it: in `prepare`,
/// not where commands are applied, so that those that are logged already stay what they are.
/// Each throws `invalidArgument` with the limit that was exceeded.
public enum RequestRules {
    public static func check(_ user: OMUser) throws(StoreError) {
        try check(user.secretAccessKey, "a secret access key")
        try check(user.canonicalID, "a canonical ID")
        try check(user.displayName, "a display name")
    }

    public static func check(_ request: OMCommitRequest) throws(StoreError) {
        try check(request.groups.count, "groups of a key", atMost: OMLimits.blocksPerKey)
        try check(request.etag, "an ETag")
        if request.hasChecksum { try check(request.checksum.value, "a checksum") }
    }

    public static func check(_ request: OMCompleteUploadRequest) throws(StoreError) {
        try check(request.parts.count, "parts of an upload", atMost: OMLimits.parts)
        try check(request.etag, "an ETag")
        if request.hasChecksum { try check(request.checksum.value, "a checksum") }
    }

    public static func check(avoiding nodes: [WireIdentity]) throws(StoreError) {
        try check(nodes.count, "nodes to avoid", atMost: OMLimits.exclusions)
    }

    public static func check(_ request: OMAllocateGroupRequest) throws(StoreError) {
        try check(avoiding: request.excluding)
        try check(avoiding: request.slow)
        try check(
            request.excludingContainers.count, "containers to avoid", atMost: OMLimits.exclusions)
    }

    public static func check(_ request: OMListKeysRequest) throws(StoreError) {
        try checkMarkers([request.prefix.count, request.delimiter.count, request.startAfter.count])
    }

    public static func check(_ request: OMListUploadsRequest) throws(StoreError) {
        try checkMarkers([request.prefix.count, request.delimiter.count, request.keyMarker.count])
    }

    private static func checkMarkers(_ sizes: [Int]) throws(StoreError) {
        for size in sizes {
            try check(
                size, "bytes of a prefix, delimiter or marker", atMost: OMLimits.markerSize)
        }
    }

    private static func check(_ text: String, _ what: String) throws(StoreError) {
        guard text.utf8.count <= OMLimits.textSize else {
            throw StoreError(
                .invalidArgument,
                "\(what) has at most \(OMLimits.textSize) bytes, not \(text.utf8.count)")
        }
    }

    private static func check(
        _ count: Int, _ what: String, atMost limit: Int
    ) throws(StoreError) {
        guard count <= limit else {
            throw StoreError(
                .invalidArgument, "a request has at most \(limit) \(what), not \(count)")
        }
    }
}
