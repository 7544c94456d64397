import Client
import HTTPTypes
import NIOCore
import NIOHTTPTypes
import Synchronization

/// Keeps a client waiting for a document that takes long to make, as a copy of gigabytes does.
///
/// As S3 has it: after a while the response begins, with status 200 and the first line of its
/// document, and goes on with a space now and then; the document follows when it is done. An
/// error that comes after that is a document too, which clients of these operations look for.
/// An answer that is ready before has its proper status and length.
private final class WaitingClient: Sendable {
    private enum Phase {
        case silent
        case begun
        case finished
    }

    private let phase = Mutex(Phase.silent)
    private let outbound: ResponseWriter

    init(_ outbound: ResponseWriter) { self.outbound = outbound }

    /// Writes head, prologue and spaces until `finish`.
    func entertain(_ head: HTTPResponse, every interval: Duration) async throws {
        try await Task.sleep(for: interval)
        let begins = phase.withLock { phase in
            if case .finished = phase { return false }
            phase = .begun
            return true
        }
        guard begins else { return }
        try await outbound.write(.head(head))
        try await outbound.write(.body(ByteBuffer(bytes: XMLWriter.prologue)))
        // Looks often, so that the document does not wait for the next space.
        let step = min(interval, .milliseconds(200))
        var silence = Duration.zero
        while !isFinished {
            try await Task.sleep(for: step)
            silence += step
            if silence >= interval, !isFinished {
                try await outbound.write(.body(ByteBuffer(string: " ")))
                silence = .zero
            }
        }
    }

    private var isFinished: Bool {
        phase.withLock { phase in
            if case .finished = phase { return true }
            return false
        }
    }

    /// Ends the waiting. Returns whether the response has begun.
    func finish() -> Bool {
        phase.withLock { former in
            defer { former = .finished }
            if case .begun = former { return true }
            return false
        }
    }
}

extension S3Service {
    /// Responds 200 with the document that `work` makes, which may take longer than a client
    /// waits in silence.
    func respondPatiently(
        _ call: Call, _ work: () async throws -> XMLWriter
    ) async throws {
        let client = WaitingClient(call.exchange.outbound)
        var head = call.head(200, contentLength: nil)
        head.set("Content-Type", "application/xml")
        head.set("Transfer-Encoding", "chunked")
        let interval = Duration.milliseconds(configuration.limits.silenceMilliseconds)
        let entertaining = Task { [http = head.http] in
            try await client.entertain(http, every: interval)
        }
        let result: Result<XMLWriter, any Error>
        do {
            result = .success(try await work())
        } catch {
            result = .failure(error)
        }
        guard client.finish() else {
            entertaining.cancel()
            try await call.respond(result.get())
            return
        }
        // It has begun, and ends by itself; its error is one of the connection.
        try await entertaining.value
        let document: [UInt8]
        var failure: S3Error?
        switch result {
        case .success(let xml): document = xml.bytes
        case .failure(let error):
            let described = Self.describe(error)
            failure = described
            document = errorDocument(described, call.exchange, call.requestID)
        }
        let rest = Array(document.dropFirst(XMLWriter.prologue.count))
        try await call.exchange.outbound.write(
            contentsOf: [.body(ByteBuffer(bytes: rest)), .end(nil)])
        call.exchange.noteResponse(status: 200, bytes: document.count)
        // Told to the client already; thrown for the record, and to end the connection.
        if let failure { throw failure }
    }
}
