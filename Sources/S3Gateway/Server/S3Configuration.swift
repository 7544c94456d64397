import Model
import Reactor

/// How an S3 gateway listens and what it allows.
public struct S3Configuration: Sendable {
    public var host: String
    /// 0 takes a free port; `S3Gateway.boundPort()` tells which.
    public var port: Int
    /// The region told by GetBucketLocation. Requests may be signed for any region.
    public var region: String
    /// Domains below which the bucket is named by the host, as in `photos.s3.example.com` for
    /// `s3.example.com`. Path style always works.
    public var baseDomains: [String]
    /// Whether presigned URLs of Signature Version 2 are taken, which boto3 makes by default.
    public var allowsSignatureV2: Bool
    public var limits: Limits
    /// Called after every request, on the request's task; for metrics and access logs.
    public var observer: (@Sendable (RequestRecord) -> Void)?

    public init(
        host: String = "127.0.0.1", port: Int = 9878, region: String = "us-east-1",
        baseDomains: [String] = [], allowsSignatureV2: Bool = true, limits: Limits = Limits(),
        observer: (@Sendable (RequestRecord) -> Void)? = nil
    ) {
        self.host = host
        self.port = port
        self.region = region
        self.baseDomains = baseDomains.map { $0.lowercased() }
        self.allowsSignatureV2 = allowsSignatureV2
        self.limits = limits
        self.observer = observer
    }

    /// The bounds of a gateway.
    public struct Limits: Sendable {
        /// Requests under way at once; past it they get `503 SlowDown`.
        public var concurrentRequests = 512
        /// User bytes of one PutObject, UploadPart or copied source: 5 GiB.
        public var objectBytes = 5 << 30
        /// Bytes of a request's XML.
        public var documentBytes = 4 << 20
        /// Body bytes read and thrown away after an error, so that the client gets to see it on
        /// a connection that stays usable; past them the connection is closed.
        public var drainedBytes = 256 << 20
        /// Seconds without a byte from the client after which its connection is closed.
        public var idleSeconds = 120
        /// Connections at once, a quarter of the descriptors that the process may have: one more
        /// takes the place of the one that has been idle for longest.
        public var connections = min(8192, max(8, Descriptors.limit / 4))
        /// Seconds that a new connection may take to send the head of its first request.
        public var headSeconds = 30
        /// Seconds for which a client may take nothing of an answer.
        public var stallSeconds = 120
        /// Milliseconds of silence after which a client that waits for a copy is sent a sign.
        public var silenceMilliseconds = 10_000
        /// Seconds that requests under way have to end when the gateway is stopped.
        public var shutdownSeconds = 20
        /// Milliseconds for which a user that was found is believed.
        public var userLifetimeMilliseconds: Int64 = 3000
        public var cachedUsers = 4096
        /// Lookups of users in the store at once.
        public var userLookups = 128
        public var cachedSigningKeys = 4096
        /// Deletions at once within one DeleteObjects.
        public var concurrentDeletions = 16

        public init() {}
    }

    /// One request, when its response has been written.
    public struct RequestRecord: Sendable {
        /// As in `x-amz-request-id`.
        public var requestID: String
        /// S3's name of the operation; empty if the request was refused before it was known.
        public var operation: String
        /// The user that signed it; empty if that was not established.
        public var user: String
        /// 499 if the client went away before it was answered in full.
        public var status: Int
        /// S3's code of the error, or `ClientGone`; nil on success.
        public var errorCode: String?
        public var duration: Duration
        public var bytesReceived: Int
        public var bytesSent: Int
    }
}
