import Bytes
import Model
import Reactor
import Testing
import Transport
import Wire

@testable import Client

/// An Ozone Manager that answers everything with one key, of one block group.
private struct FakeOM: RPCHandler, OMCaller {
    var replication: WireReplication
    var nodes = 3

    private var group: WireGroup {
        var group = WireGroup()
        group.block = BlockID(containerID: ContainerID(1), localID: 1).message
        group.replication = replication
        group.length = 10
        group.nodes = Array(repeating: WireAddress(), count: nodes)
        return group
    }

    func call(_ method: OMMethod, _ message: [UInt8]) async throws(StoreError) -> [UInt8] {
        switch method {
        case .openKey, .openPart:
            var response = OMOpenResponse()
            response.openID = 5
            response.replication = replication
            response.groups = [group]
            return response.encoded
        case .lookupKey, .commit:
            var response = OMKeyResponse()
            response.key.name = .octets(Array("k".utf8))
            response.key.length = 10
            response.key.replication = replication
            response.key.groups = [group]
            return response.encoded
        default: throw StoreError(.unsupported, "\(method)")
        }
    }

    func handle(_ request: RPCRequest) async throws(StoreError) -> RPCReply {
        guard let method = OMMethod(rawValue: request.method) else {
            throw StoreError(.unsupported, "\(request.method)")
        }
        return RPCReply(try await call(method, request.message))
    }
}

/// What a client does with keys of whole copies, which the Ozone Manager may name and it cannot
/// read or write yet.
@Suite("keys of copies", .timeLimit(.minutes(10)))
struct CopiesTests {
    private let path = KeyPath(
        bucket: BucketPath(volume: "s3v", bucket: "lake"), name: KeyName(unchecked: [0x6B]))

    private func code<R>(_ body: () async throws(StoreError) -> R) async -> StoreError.Code? {
        do throws(StoreError) {
            _ = try await body()
            return nil
        } catch { return error.code }
    }

    @Test("a key of copies is shown; reading and writing it is refused as not there yet")
    func refused() async throws {
        let reactor = try Reactor.start()
        defer { reactor.stop() }
        for factor in ReplicationConfig.Factor.allCases {
            let copies = ReplicationConfig.replicated(factor)
            let channels = ChannelPool(name: "test")
            channels.register(
                FakeOM(replication: copies.message, nodes: copies.width), host: "om", port: 1)
            let client = try ClusterClient(
                om: ["om:1"], scm: ["scm:1"],
                channels: channels, reactors: ReactorGroup([reactor]))
            let path = path
            try await Task(executorPreference: reactor) {
                let info = try await client.key(path, .all, user: "ann")
                #expect(info.replication == copies && info.blockGroups[0].replication == copies)
                #expect(
                    await code { () throws(StoreError) in
                        try await client.openReader(info)
                    } == .unsupported)
                #expect(
                    await code { () throws(StoreError) in
                        try await client.openWriter(path, length: 10, replication: nil, user: "ann")
                    } == .unsupported)
                #expect(
                    await code { () throws(StoreError) in
                        try await client.openPartWriter(
                            path, upload: UploadID(Identity128(high: 1, low: 1)), number: 1,
                            length: 10,
                            user: "ann")
                    } == .unsupported)
            }.value
        }
    }

    @Test(
        "an answer with a replication that is none is an error, however many places it stands for")
    func senseless() async throws {
        let copies = ReplicationConfig.replicated(.three).message
        let open = try await OMClient(FakeOM(replication: copies)).openKey(
            path, length: 10, replication: nil, user: "ann")
        for change: (inout WireReplication) -> Void in [
            { $0.codec = .rs }, { $0.data = 2 },
            {
                $0.data = .max; $0.codec = .rs
            },
            { $0.codec = .UNRECOGNIZED(9) },
        ] {
            var message = copies
            change(&message)
            message.parity = message.data == .max ? .max : 0
            let client = OMClient(FakeOM(replication: message))
            let errors = [
                await code { () throws(StoreError) in
                    try await client.commit(open, groups: [], KeyCommit(etag: "e"))
                },
                await code { () throws(StoreError) in
                    try await client.key(path, .all, user: "ann")
                },
            ]
            #expect(errors.allSatisfy { $0 == .invalidArgument || $0 == .badRequest })
        }
    }
}
