import Client
import HTTPTypes
import Model

/// One authenticated request on its way through an operation. Used by one task.
struct Call {
    let exchange: Exchange
    let request: S3Request
    let operation: Operation
    let address: Address
    let identity: Identity
    let requestID: RequestID
    let now: Timestamp
    let hashing: ETagHashing

    var user: String { identity.user.name }

    var bucketName: String {
        switch address {
        case .bucket(let name), .key(bucket: let name, _): name
        case .service: preconditionFailure("an operation on the service has no bucket")
        }
    }

    var bucket: BucketPath { BucketPath(volume: BucketPath.s3Volume, bucket: bucketName) }

    var key: KeyPath {
        guard case .key(_, let name) = address else {
            preconditionFailure("an operation on a bucket has no key")
        }
        return KeyPath(bucket: bucket, name: name)
    }

    /// The response's head with the headers that every response has.
    func head(_ status: Int, contentLength: Int?) -> ResponseHead {
        var head = ResponseHead(status, contentLength: contentLength)
        decorate(&head, requestID, now)
        return head
    }

    func respond(_ head: ResponseHead) async throws {
        try await exchange.respond(head.http)
    }

    /// Responds with a status and nothing else.
    func respond(_ status: Int) async throws {
        try await respond(head(status, contentLength: status == 204 ? nil : 0))
    }

    /// Responds 200 with a document.
    func respond(_ xml: XMLWriter) async throws {
        var head = head(200, contentLength: xml.bytes.count)
        head.set("Content-Type", "application/xml")
        try await exchange.respond(head.http, body: xml.bytes)
    }
}

/// Sets the headers that every response has.
func decorate(_ head: inout ResponseHead, _ id: RequestID, _ now: Timestamp) {
    head.set("x-amz-request-id", id.description)
    head.set("x-amz-id-2", id.extended)
    head.set("Date", CurrentDate.text(now))
    head.set("Server", "Apus")
}
