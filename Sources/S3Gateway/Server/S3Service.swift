import Client
import HTTPTypes
import Logging
import Model
import NIOCore
import NIOHTTPTypes
import Reactor
import Synchronization
import Telemetry

/// Serves S3 requests from a store: authenticates, routes, runs the operation, answers.
struct S3Service<Store: ObjectStore>: Sendable {
    let store: Store
    let configuration: S3Configuration
    let authenticator: Authenticator<Store>
    let clock: @Sendable () -> Timestamp
    let logger: Logger
    let hashing = ETagHashing()
    private let load: RequestLoad
    private let metrics: S3Metrics?

    init(
        store: Store, configuration: S3Configuration, clock: @escaping @Sendable () -> Timestamp,
        logger: Logger, telemetry: RoleTelemetry? = nil
    ) {
        let load = RequestLoad()
        self.load = load
        metrics = telemetry.map { S3Metrics($0) { load.value } }
        self.store = store
        self.configuration = configuration
        self.clock = clock
        self.logger = logger
        let limits = configuration.limits
        authenticator = Authenticator(
            users: UserCache(
                store: store, clock: clock,
                lifetimeMilliseconds: limits.userLifetimeMilliseconds, limit: limits.cachedUsers,
                lookupLimit: limits.userLookups),
            keys: SigningKeyCache(limit: limits.cachedSigningKeys),
            allowsVersion2: configuration.allowsSignatureV2,
            baseDomains: configuration.baseDomains)
    }

    /// Serves one request. Returns whether the connection may carry another one.
    func serve(_ exchange: Exchange) async -> Bool {
        var generator = RequestNumbers()
        let id = RequestID(using: &generator)
        // Calls to other roles carry the identity, and are noted for it.
        let started = MonotonicTime.now()
        guard let metrics else { return await serve(exchange, id, nil, since: started) }
        let context = metrics.context(id.traceID, since: started.nanoseconds)
        return await TraceContext.$current.withValue(context) {
            await serve(exchange, id, context, since: started)
        }
    }

    private func serve(
        _ exchange: Exchange, _ id: RequestID, _ trace: TraceContext?,
        since started: MonotonicTime
    ) async -> Bool {
        var outcome = Outcome()
        var isReusable = exchange.mayGoOn
        do {
            guard load.enter(limit: configuration.limits.concurrentRequests) else {
                throw S3Error(.slowDown)
            }
            defer { load.leave() }
            try await run(exchange, id, &outcome)
        } catch let gone as ClientGone {
            logger.debug("\(gone)", metadata: ["request": "\(id)"])
            outcome.isGone = true
            isReusable = false
        } catch {
            outcome.error = Self.describe(error)
            if outcome.error?.code == .internalError {
                logger.error("request failed: \(error)", metadata: ["request": "\(id)"])
            }
            if exchange.responseHasBegun {
                // The client must not take what it has for the whole: the connection breaks.
                isReusable = false
            } else {
                isReusable = await refuse(exchange, id, outcome, isReusable: isReusable)
            }
        }
        if isReusable { isReusable = await drain(exchange) }
        record(exchange, id, outcome, trace, since: started)
        return isReusable
    }

    /// What is known of a request for its record.
    private struct Outcome {
        var operation: Operation?
        var user = ""
        var error: S3Error?
        /// Whether the client was no longer there to be answered.
        var isGone = false
    }

    private func run(_ exchange: Exchange, _ id: RequestID, _ outcome: inout Outcome) async throws {
        let request = try S3Request(exchange.head)
        try Operation.refuseForm(request)
        let now = clock()
        let identity = try await authenticator.authenticate(request, now: now)
        outcome.user = identity.user.name
        let address = try Address.parse(request, baseDomains: configuration.baseDomains)
        let operation = try Operation.route(request, address)
        outcome.operation = operation
        try RefusedHeaders.check(request, operation)
        let call = Call(
            exchange: exchange, request: request, operation: operation, address: address,
            identity: identity, requestID: id, now: now, hashing: hashing)
        try await checkExpectedOwner(call)
        try await perform(call)
    }

    private func perform(_ call: Call) async throws {
        switch call.operation {
        case .listBuckets: try await listBuckets(call)
        case .createBucket: try await createBucket(call)
        case .headBucket: try await headBucket(call)
        case .deleteBucket: try await deleteBucket(call)
        case .getBucketLocation: try await getBucketLocation(call)
        case .listObjects: try await listObjects(call)
        case .listObjectsV2: try await listObjectsV2(call)
        case .listObjectVersions: try await listObjectVersions(call)
        case .listMultipartUploads: try await listMultipartUploads(call)
        case .deleteObjects: try await deleteObjects(call)
        case .putObject: try await putObject(call)
        case .copyObject: try await copyObject(call)
        case .getObject: try await getObject(call)
        case .headObject: try await headObject(call)
        case .deleteObject: try await deleteObject(call)
        case .createMultipartUpload: try await createMultipartUpload(call)
        case .uploadPart: try await uploadPart(call)
        case .uploadPartCopy: try await uploadPartCopy(call)
        case .completeMultipartUpload: try await completeMultipartUpload(call)
        case .abortMultipartUpload: try await abortMultipartUpload(call)
        case .listParts: try await listParts(call)
        case .getBucketAcl, .getBucketVersioning, .getBucketTagging,
            .getBucketLifecycleConfiguration, .getBucketPolicy, .getBucketPolicyStatus,
            .getBucketCors, .getBucketEncryption, .getBucketReplication, .getBucketWebsite,
            .getBucketOwnershipControls, .getBucketNotificationConfiguration, .getBucketLogging,
            .getBucketRequestPayment, .getBucketAccelerateConfiguration,
            .getObjectLockConfiguration, .getPublicAccessBlock,
            .listBucketAnalyticsConfigurations, .listBucketIntelligentTieringConfigurations,
            .listBucketInventoryConfigurations, .listBucketMetricsConfigurations,
            .getObjectAcl, .getObjectTagging, .getObjectRetention, .getObjectLegalHold:
            try await getSetting(call)
        }
    }

    /// `x-amz-expected-bucket-owner` must be the canonical ID of the bucket's owner.
    private func checkExpectedOwner(_ call: Call) async throws {
        guard let expected = call.request.header("x-amz-expected-bucket-owner"),
            call.address != .service, call.operation != .createBucket
        else { return }
        let bucket = try await store.bucket(call.bucket, user: call.user)
        guard bucket.ownerCanonicalID == expected else { throw S3Error(.accessDenied) }
    }

    /// What a client is told of an error of any kind.
    static func describe(_ error: any Error) -> S3Error {
        switch error {
        case let error as S3Error: error
        case let error as StoreError: S3Error(error)
        case let error as XMLError: S3Error(.malformedXML, "The XML is refused: \(error.message).")
        case is CancellationError: S3Error(.serviceUnavailable)
        default: S3Error(.internalError)
        }
    }

    private func record(
        _ exchange: Exchange, _ id: RequestID, _ outcome: Outcome, _ trace: TraceContext?,
        since started: MonotonicTime
    ) {
        let ended = MonotonicTime.now()
        let status =
            outcome.isGone ? ClientGone.status : outcome.error?.code.status ?? exchange.status
        let code = outcome.isGone ? ClientGone.code : outcome.error?.code.rawValue
        metrics?.record(
            outcome.operation, user: outcome.user, status: status, exchange, trace,
            from: started.nanoseconds, to: ended.nanoseconds)
        guard configuration.observer != nil || logger.logLevel <= .debug else { return }
        let duration = started.duration(to: ended)
        let record = S3Configuration.RequestRecord(
            requestID: id.description, operation: outcome.operation?.name ?? "",
            user: outcome.user, status: status, errorCode: code,
            duration: duration, bytesReceived: exchange.bytesReceived,
            bytesSent: exchange.bytesSent)
        configuration.observer?(record)
        logger.debug(
            "\(exchange.head.method) \(exchange.head.path ?? "") \(status) \(duration)",
            metadata: [
                "request": "\(id)", "user": "\(outcome.user)",
                "error": "\(code ?? "-")",
            ])
    }
}

extension S3Service {
    /// Answers with the XML of an error. Returns whether the connection may go on.
    private func refuse(
        _ exchange: Exchange, _ id: RequestID, _ outcome: Outcome, isReusable: Bool
    ) async -> Bool {
        guard let error = outcome.error else { return isReusable }
        let hasBody = exchange.head.method != .head && error.code != .notModified
        let xml = hasBody ? errorDocument(error, exchange, id) : []
        var head = ResponseHead(
            error.code.status, contentLength: error.code == .notModified ? nil : xml.count)
        decorate(&head, id, clock())
        if hasBody { head.set("Content-Type", "application/xml") }
        for (name, value) in error.headers { head.set(name, value) }
        if error.code.status == 503 { head.set("Retry-After", "\(S3Error.retryAfterSeconds)") }
        let isReusable = isReusable && exchange.canDrain(limit: configuration.limits.drainedBytes)
        if !isReusable { head.set("Connection", "close") }
        do {
            try await exchange.respond(head.http, body: xml)
        } catch {
            logger.debug("the client went away: \(error)", metadata: ["request": "\(id)"])
            return false
        }
        return isReusable
    }

    /// The XML of an error.
    func errorDocument(
        _ error: S3Error, _ exchange: Exchange, _ id: RequestID
    ) -> [UInt8] {
        let path = (exchange.head.path ?? "/").prefix { $0 != "?" }
        let resource = PercentEncoding.decode(path).map { String(decoding: $0, as: UTF8.self) }
        var xml = XMLWriter()
        xml.element("Error") { xml in
            xml.element("Code", error.code.rawValue)
            xml.element("Message", error.message)
            for (name, value) in error.details { xml.element(named: name, value) }
            xml.element("Resource", resource ?? String(path))
            xml.element("RequestId", id.description)
            xml.element("HostId", id.extended)
        }
        return xml.bytes
    }

    /// Reads the rest of a body that nobody wanted. Returns whether its end was reached.
    private func drain(_ exchange: Exchange) async -> Bool {
        if exchange.bodyIsConsumed { return true }
        guard exchange.canDrain(limit: configuration.limits.drainedBytes) else { return false }
        var count = 0
        do {
            while let piece = try await exchange.nextBodyPiece() {
                count += piece.readableBytes
                if count > configuration.limits.drainedBytes { return false }
            }
            return true
        } catch {
            logger.debug("the client broke off: \(error)")
            return false
        }
    }
}

/// Counts the requests under way. Any executor.
final class RequestLoad: Sendable {
    private let count = Atomic<Int>(0)

    /// Counts one more, unless there are `limit`. Balanced by `leave` if it returns true.
    func enter(limit: Int) -> Bool {
        if count.add(1, ordering: .relaxed).newValue <= limit { return true }
        count.subtract(1, ordering: .relaxed)
        return false
    }

    /// The requests under way.
    var value: Int { count.load(ordering: .relaxed) }

    func leave() { count.subtract(1, ordering: .relaxed) }
}
