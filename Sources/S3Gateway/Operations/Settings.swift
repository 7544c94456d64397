import Client
import Model

/// What S3 answers when a setting of a bucket or key is asked for that was never made.
///
/// No setting can be made here yet, so this is the truth about all of them: clients that ask before
/// they act (rclone, Terraform, the console's kin) go on as with a new bucket of S3. Some settings
/// have a document for that, the others a code of their own, 404.
enum UnsetSetting {
    case document(XMLWriter)
    case missing(S3Error)

    /// - Parameter bucket: the bucket, or that of the key; its owner owns all that is in it.
    init(_ operation: Operation, _ bucket: BucketInfo) {
        switch operation {
        case .getBucketAcl, .getObjectAcl: self = .document(Self.fullControl(bucket))
        case .getObjectTagging:
            self = Self.document("Tagging") { $0.element("TagSet") { _ in } }
        case .getBucketVersioning: self = Self.document("VersioningConfiguration")
        case .getBucketOwnershipControls:
            self = Self.document("OwnershipControls") { xml in
                xml.element("Rule") { $0.element("ObjectOwnership", "BucketOwnerEnforced") }
            }
        case .getBucketNotificationConfiguration: self = Self.document("NotificationConfiguration")
        case .getBucketLogging: self = Self.document("BucketLoggingStatus")
        case .getBucketRequestPayment:
            self = Self.document("RequestPaymentConfiguration") {
                $0.element("Payer", "BucketOwner")
            }
        case .getBucketAccelerateConfiguration: self = Self.document("AccelerateConfiguration")
        case .listBucketAnalyticsConfigurations:
            self = Self.emptyList("ListBucketAnalyticsConfigurationResult")
        case .listBucketIntelligentTieringConfigurations:
            self = Self.emptyList("ListBucketIntelligentTieringConfigurationsOutput")
        case .listBucketInventoryConfigurations:
            self = Self.emptyList("ListInventoryConfigurationsResult")
        case .listBucketMetricsConfigurations:
            self = Self.emptyList("ListMetricsConfigurationsResult")
        case .getBucketTagging: self = Self.absent(.noSuchTagSet, bucket)
        case .getBucketLifecycleConfiguration:
            self = Self.absent(.noSuchLifecycleConfiguration, bucket)
        case .getBucketPolicy, .getBucketPolicyStatus:
            self = Self.absent(.noSuchBucketPolicy, bucket)
        case .getBucketCors: self = Self.absent(.noSuchCORSConfiguration, bucket)
        case .getBucketEncryption: self = Self.absent(.encryptionNotFound, bucket)
        case .getBucketReplication: self = Self.absent(.replicationNotFound, bucket)
        case .getBucketWebsite: self = Self.absent(.noSuchWebsite, bucket)
        case .getPublicAccessBlock: self = Self.absent(.noSuchPublicAccessBlock, bucket)
        case .getObjectLockConfiguration: self = Self.absent(.objectLockNotFound, bucket)
        case .getObjectRetention, .getObjectLegalHold:
            self = .missing(
                S3Error(.invalidRequest, "Bucket is missing Object Lock Configuration"))
        default: preconditionFailure("\(operation.name) asks for no setting")
        }
    }

    /// S3's answer where there is no document: a code of its own, with the bucket's name.
    static func absent(_ code: S3Error.Code, _ bucket: BucketInfo) -> UnsetSetting {
        .missing(S3Error(code, details: [("BucketName", bucket.name)]))
    }

    private static func document(
        _ root: StaticString, _ content: (inout XMLWriter) -> Void = { _ in }
    ) -> UnsetSetting {
        var xml = XMLWriter()
        xml.element(root, namespace: true, content)
        return .document(xml)
    }

    private static func emptyList(_ root: StaticString) -> UnsetSetting {
        document(root) { $0.element("IsTruncated", false) }
    }

    /// The owner may do everything, and nobody else has been granted anything.
    private static func fullControl(_ bucket: BucketInfo) -> XMLWriter {
        var xml = XMLWriter()
        xml.element("AccessControlPolicy", namespace: true) { xml in
            xml.owner(bucket.ownerCanonicalID, bucket.ownerDisplayName)
            xml.element("AccessControlList") { xml in
                xml.element("Grant") { xml in
                    xml.element("Grantee", attributes: grantee) { xml in
                        xml.element("ID", bucket.ownerCanonicalID)
                        xml.element("DisplayName", bucket.ownerDisplayName)
                    }
                    xml.element("Permission", "FULL_CONTROL")
                }
            }
        }
        return xml
    }

    private static let grantee: StaticString =
        "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\""
}

extension S3Service {
    /// Answers a question for a setting, once its bucket and key are known to be there and the
    /// caller's.
    func getSetting(_ call: Call) async throws {
        let bucket = try await store.bucket(call.bucket, user: call.user)
        if case .key = call.address {
            try call.checkVersion()
            _ = try await store.key(call.key, user: call.user)
        }
        // One configuration of a list of them.
        let asksForOne = call.operation.listsConfigurations && call.request.hasQuery("id")
        switch asksForOne
            ? .absent(.noSuchConfiguration, bucket) : UnsetSetting(call.operation, bucket)
        {
        case .document(let xml): try await call.respond(xml)
        case .missing(let error): throw error
        }
    }
}

extension Operation {
    /// Whether this lists configurations that have names, and tells one if it is named.
    fileprivate var listsConfigurations: Bool {
        switch self {
        case .listBucketAnalyticsConfigurations, .listBucketIntelligentTieringConfigurations,
            .listBucketInventoryConfigurations, .listBucketMetricsConfigurations:
            true
        default: false
        }
    }
}
