/// The operations of S3 that are implemented.
enum Operation: Int, CaseIterable, Sendable {
    case listBuckets
    case createBucket
    case headBucket
    case deleteBucket
    case getBucketLocation
    case listObjects
    case listObjectsV2
    case listObjectVersions
    case listMultipartUploads
    case deleteObjects
    case putObject
    case copyObject
    case getObject
    case headObject
    case deleteObject
    case createMultipartUpload
    case uploadPart
    case uploadPartCopy
    case completeMultipartUpload
    case abortMultipartUpload
    case listParts

    // Settings, which can be asked for and not be made: see `UnsetSetting`.
    case getBucketAcl
    case getBucketVersioning
    case getBucketTagging
    case getBucketLifecycleConfiguration
    case getBucketPolicy
    case getBucketPolicyStatus
    case getBucketCors
    case getBucketEncryption
    case getBucketReplication
    case getBucketWebsite
    case getBucketOwnershipControls
    case getBucketNotificationConfiguration
    case getBucketLogging
    case getBucketRequestPayment
    case getBucketAccelerateConfiguration
    case getObjectLockConfiguration
    case getPublicAccessBlock
    case listBucketAnalyticsConfigurations
    case listBucketIntelligentTieringConfigurations
    case listBucketInventoryConfigurations
    case listBucketMetricsConfigurations
    case getObjectAcl
    case getObjectTagging
    case getObjectRetention
    case getObjectLegalHold

    /// What S3 calls it.
    var name: String {
        let text = "\(self)"
        return text.prefix(1).uppercased() + text.dropFirst()
    }

    /// Whether the request's body is the object's bytes, streamed.
    var streamsBody: Bool { self == .putObject || self == .uploadPart }
}
