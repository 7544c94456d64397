import Model

/// An error as S3 names it: a code for programs, a sentence for people, a status.
struct S3Error: Error, Equatable {
    var code: Code
    var message: String
    /// More elements of the error's XML, in order.
    var details: [(name: String, value: String)] = []
    /// Headers beside the usual ones.
    var headers: [(name: String, value: String)] = []

    init(
        _ code: Code, _ message: String? = nil, details: [(name: String, value: String)] = [],
        headers: [(name: String, value: String)] = []
    ) {
        self.code = code
        self.message = message ?? code.usualMessage
        self.details = details
        self.headers = headers
    }

    static func == (a: Self, b: Self) -> Bool { a.code == b.code && a.message == b.message }

    /// What is not implemented, named.
    static func notImplemented(_ what: String) -> S3Error {
        S3Error(.notImplemented, "\(what) is not implemented by this store.")
    }

    static func invalidArgument(_ name: String, _ value: String, _ message: String) -> S3Error {
        S3Error(
            .invalidArgument, message,
            details: [("ArgumentName", name), ("ArgumentValue", value)])
    }

    /// The codes in use, spelt as S3 spells them.
    enum Code: String, CaseIterable {
        case accessDenied = "AccessDenied"
        case authorizationHeaderMalformed = "AuthorizationHeaderMalformed"
        case authorizationQueryParametersError = "AuthorizationQueryParametersError"
        case badDigest = "BadDigest"
        case bucketAlreadyExists = "BucketAlreadyExists"
        case bucketAlreadyOwnedByYou = "BucketAlreadyOwnedByYou"
        case bucketNotEmpty = "BucketNotEmpty"
        case conditionalRequestConflict = "ConditionalRequestConflict"
        case entityTooLarge = "EntityTooLarge"
        case entityTooSmall = "EntityTooSmall"
        case incompleteBody = "IncompleteBody"
        case internalError = "InternalError"
        case invalidAccessKeyID = "InvalidAccessKeyId"
        case invalidArgument = "InvalidArgument"
        case invalidBucketName = "InvalidBucketName"
        case invalidDigest = "InvalidDigest"
        case invalidLocationConstraint = "InvalidLocationConstraint"
        case invalidPart = "InvalidPart"
        case invalidPartNumber = "InvalidPartNumber"
        case invalidPartOrder = "InvalidPartOrder"
        case invalidRange = "InvalidRange"
        case invalidRequest = "InvalidRequest"
        case invalidStorageClass = "InvalidStorageClass"
        case invalidToken = "InvalidToken"
        case invalidURI = "InvalidURI"
        case keyTooLong = "KeyTooLongError"
        case malformedTrailer = "MalformedTrailerError"
        case malformedXML = "MalformedXML"
        case maxMessageLengthExceeded = "MaxMessageLengthExceeded"
        case metadataTooLarge = "MetadataTooLarge"
        case methodNotAllowed = "MethodNotAllowed"
        case missingContentLength = "MissingContentLength"
        case missingRequestBody = "MissingRequestBodyError"
        case missingSecurityHeader = "MissingSecurityHeader"
        case noSuchBucket = "NoSuchBucket"
        case noSuchBucketPolicy = "NoSuchBucketPolicy"
        case noSuchConfiguration = "NoSuchConfiguration"
        case noSuchCORSConfiguration = "NoSuchCORSConfiguration"
        case noSuchKey = "NoSuchKey"
        case noSuchLifecycleConfiguration = "NoSuchLifecycleConfiguration"
        case noSuchPublicAccessBlock = "NoSuchPublicAccessBlockConfiguration"
        case noSuchTagSet = "NoSuchTagSet"
        case noSuchUpload = "NoSuchUpload"
        case noSuchVersion = "NoSuchVersion"
        case noSuchWebsite = "NoSuchWebsiteConfiguration"
        case notImplemented = "NotImplemented"
        case notModified = "NotModified"
        case objectLockNotFound = "ObjectLockConfigurationNotFoundError"
        case preconditionFailed = "PreconditionFailed"
        case replicationNotFound = "ReplicationConfigurationNotFoundError"
        case requestTimeout = "RequestTimeout"
        case requestTimeTooSkewed = "RequestTimeTooSkewed"
        case encryptionNotFound = "ServerSideEncryptionConfigurationNotFoundError"
        case serviceUnavailable = "ServiceUnavailable"
        case signatureDoesNotMatch = "SignatureDoesNotMatch"
        case slowDown = "SlowDown"
        case insufficientStorage = "InsufficientStorage"
        case tooManyBuckets = "TooManyBuckets"
        case contentSHA256Mismatch = "XAmzContentSHA256Mismatch"

        /// The HTTP status that goes with the code.
        var status: Int {
            switch self {
            case .notModified: 304
            case .accessDenied, .invalidAccessKeyID, .requestTimeTooSkewed,
                .signatureDoesNotMatch:
                403
            case .noSuchBucket, .noSuchKey, .noSuchUpload, .noSuchVersion,
                .noSuchBucketPolicy, .noSuchConfiguration, .noSuchCORSConfiguration,
                .noSuchLifecycleConfiguration, .noSuchPublicAccessBlock, .noSuchTagSet,
                .noSuchWebsite, .objectLockNotFound, .replicationNotFound, .encryptionNotFound:
                404
            case .methodNotAllowed: 405
            case .bucketAlreadyExists, .bucketAlreadyOwnedByYou, .bucketNotEmpty,
                .conditionalRequestConflict:
                409
            case .missingContentLength: 411
            case .preconditionFailed: 412
            case .invalidRange, .invalidPartNumber: 416
            case .internalError: 500
            case .notImplemented: 501
            case .serviceUnavailable, .slowDown: 503
            case .insufficientStorage: 507
            default: 400
            }
        }

        var usualMessage: String {
            switch self {
            case .accessDenied: "Access Denied"
            case .noSuchBucket: "The specified bucket does not exist."
            case .noSuchBucketPolicy: "The bucket policy does not exist"
            case .noSuchConfiguration: "The specified configuration does not exist."
            case .noSuchCORSConfiguration: "The CORS configuration does not exist"
            case .noSuchLifecycleConfiguration: "The lifecycle configuration does not exist"
            case .noSuchPublicAccessBlock: "The public access block configuration was not found"
            case .noSuchTagSet: "The TagSet does not exist"
            case .noSuchWebsite: "The specified bucket does not have a website configuration"
            case .objectLockNotFound:
                "Object Lock configuration does not exist for this bucket"
            case .replicationNotFound: "The replication configuration was not found"
            case .encryptionNotFound:
                "The server side encryption configuration was not found"
            case .noSuchKey: "The specified key does not exist."
            case .noSuchUpload:
                "The specified upload does not exist: it was completed or aborted, or never begun."
            case .methodNotAllowed: "The specified method is not allowed against this resource."
            case .bucketAlreadyExists: "A bucket of this name exists and belongs to another user."
            case .bucketAlreadyOwnedByYou: "A bucket of this name exists and belongs to you."
            case .bucketNotEmpty: "The bucket holds keys; delete them first."
            case .keyTooLong: "A key has at most 1024 bytes of UTF-8."
            case .malformedXML: "The XML of the request is not well-formed or not as published."
            case .missingContentLength: "The request needs a Content-Length header."
            case .preconditionFailed:
                "At least one of the preconditions you specified did not hold."
            case .invalidRange: "The requested range is not satisfiable."
            case .slowDown: "Please reduce your request rate."
            case .serviceUnavailable: "The store is not ready; please try again."
            case .internalError: "An internal error was encountered; please try again."
            case .signatureDoesNotMatch:
                "The signature calculated from the request does not match the one provided: "
                    + "check the secret key and the signing method."
            case .incompleteBody:
                "The body ended before the number of bytes that its headers announced."
            case .entityTooLarge: "The upload is larger than 5 GiB, the most for one request."
            case .maxMessageLengthExceeded: "The document of the request is too large."
            case .notModified: "Not Modified"
            default: rawValue
            }
        }
    }
}

extension S3Error {
    /// Seconds after which a client should come back, on 503.
    static let retryAfterSeconds = 1

    /// What a client sees of an error of the store.
    init(_ error: StoreError) {
        switch error.code {
        case .noSuchBucket, .noSuchVolume: self.init(.noSuchBucket)
        case .bucketExists: self.init(.bucketAlreadyExists)
        case .bucketOwnedByYou: self.init(.bucketAlreadyOwnedByYou)
        case .bucketNotEmpty: self.init(.bucketNotEmpty)
        case .noSuchKey: self.init(.noSuchKey)
        case .noSuchUpload: self.init(.noSuchUpload)
        case .invalidPart: self.init(.invalidPart, error.message)
        case .invalidPartOrder: self.init(.invalidPartOrder, error.message)
        case .partTooSmall: self.init(.entityTooSmall, error.message)
        case .preconditionFailed: self.init(.preconditionFailed)
        case .conflict: self.init(.conditionalRequestConflict, error.message)
        case .accessDenied: self.init(.accessDenied)
        case .invalidArgument: self.init(.invalidArgument, error.message)
        case .overloaded: self.init(.slowDown)
        case .notReady, .notLeader, .unavailable, .cannotPlace, .deadlineExceeded, .connection,
            .cancelled, .forgotten:
            self.init(.serviceUnavailable, error.message)
        case .noSpace: self.init(.insufficientStorage, error.message)
        case .tooManyBuckets: self.init(.tooManyBuckets, error.message)
        case .unsupported: self.init(.notImplemented, error.message)
        case .badRequest: self.init(.invalidRequest, error.message)
        case .noSuchUser: self.init(.invalidAccessKeyID, "The access key is not known here.")
        case .userExists, .volumeExists, .volumeNotEmpty, .corrupt, .versionMismatch,
            .noSuchContainer, .noSuchBlock, .containerState, .io, .internal:
            self.init(.internalError)
        }
    }
}
