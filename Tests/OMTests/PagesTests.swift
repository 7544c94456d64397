import Client
import Model
import SwiftProtobuf
import Synchronization
import Testing
import Wire

@testable import OM
@testable import OMCore

/// An Ozone Manager of one key and some lists, whose answers hold little.
private final class SmallAnswers: OMCaller {
    struct State {
        /// Groups of the key, 10 bytes each, and its generation.
        var groups = 23
        var generation: UInt64 = 5
        /// Look-ups after which the key has been replaced by one of fewer groups.
        var replacedAfter: Int?
        var lookUps = 0
    }
    let state = Mutex(State())
    static let perAnswer = 4

    private static let replication: WireReplication = .with {
        $0.data = 3
        $0.parity = 2
        $0.cellSize = 1 << 20
    }

    func call(_ method: OMMethod, _ message: [UInt8]) async throws(StoreError) -> [UInt8] {
        switch method {
        case .lookupKey: try lookUp(OMLookupKeyRequest(parsing: message)).encoded
        case .listKeys: try list(OMListKeysRequest(parsing: message)).encoded
        case .listUsers: try users(OMListUsersRequest(parsing: message)).encoded
        default: throw StoreError(.unsupported, "\(method) is not asked here")
        }
    }

    private func lookUp(_ request: OMLookupKeyRequest) -> OMKeyResponse {
        state.withLock { state in
            state.lookUps += 1
            if let last = state.replacedAfter, state.lookUps > last {
                state.groups = 9
                state.generation = 6
                state.replacedAfter = nil
            }
            let start = request.hasSelection ? Int(request.selection.start) / 10 : 0
            let wanted = request.selection.end == 0 ? state.groups : Int(request.selection.end) / 10
            let end = max(start, min(wanted, start + Self.perAnswer))
            var response = OMKeyResponse()
            response.key.replication = Self.replication
            response.key.generation = state.generation
            response.key.length = UInt64(10 * state.groups)
            response.key.groups = (start..<end).map { place in
                .with {
                    $0.block.container = state.generation
                    $0.block.local = UInt64(place)
                    $0.length = 10
                    $0.replication = Self.replication
                    $0.nodes = Array(repeating: WireAddress(), count: 5)
                }
            }
            response.excerpt = [
                .with {
                    $0.groupsOffset = UInt64(10 * start)
                    $0.groupsEnd = end < wanted ? UInt64(10 * end) : 0
                }
            ]
            return response
        }
    }

    private func list(_ request: OMListKeysRequest) -> OMListKeysResponse {
        let start = request.startAfter.isEmpty ? 0 : Int(request.startAfter.octets[0]) + 1
        let end = min(start + min(Int(request.limit), Self.perAnswer), 50)
        var response = OMListKeysResponse()
        response.keys = (start..<end).map { place in
            .with {
                $0.name = .octets([UInt8(place)])
                $0.replication = Self.replication
            }
        }
        if end < 50 { response.next = .octets([UInt8(end - 1)]) }
        return response
    }

    private func users(_ request: OMListUsersRequest) -> OMListUsersResponse {
        let start = Int(request.startAfter).map { $0 + 1 } ?? 100
        let end = min(start + Self.perAnswer, 130)
        var response = OMListUsersResponse()
        response.users = (start..<end).map { number in .with { $0.name = "\(number)" } }
        if end < 130 { response.next = "\(end - 1)" }
        return response
    }
}

@Suite("OMClient: answers that are cut")
struct CutAnswersTests {
    private let path: Client.KeyPath

    init() throws {
        path = Client.KeyPath(
            bucket: BucketPath(volume: "s3v", bucket: "b-1"), name: try #require(KeyName("k")))
    }

    @Test("a page of keys has as many as were asked for, and says truly whether there are more")
    func list() async throws {
        let client = OMClient(SmallAnswers())
        for (limit, expected) in [(3, 3), (4, 4), (21, 21), (50, 50), (1000, 50)] {
            var query = ListQuery()
            query.limit = limit
            let page = try await client.list(path.bucket, query, user: "ann")
            #expect(page.keys.map(\.name.bytes) == (0..<UInt8(expected)).map { [$0] })
            #expect(page.next == (expected < 50 ? [UInt8(expected - 1)] : nil))
        }
    }

    @Test("all users come, however many answers they take")
    func users() async throws {
        let users = try await OMClient(SmallAnswers()).users()
        #expect(users.map(\.name) == (100..<130).map { "\($0)" })
    }

    @Test("all groups of a key come, or those of a range")
    func groups() async throws {
        let client = OMClient(SmallAnswers())
        let all = try await client.key(path, user: "ann")
        #expect(all.blockGroups.map(\.blockID.localID) == Array(0..<23))
        #expect(all.generation == 5)
        let some = try await client.key(path, .range(from: 20, to: 150), user: "ann")
        #expect(some.blockGroups.map(\.blockID.localID) == Array(2..<15))
        #expect(some.groupsOffset == 20)
    }

    @Test("a key that is replaced between two answers is one version of it, not a mixture")
    func replaced() async throws {
        let caller = SmallAnswers()
        caller.state.withLock { $0.replacedAfter = 3 }
        let key = try await OMClient(caller).key(path, user: "ann")
        #expect(key.generation == 6 && key.length == 90)
        #expect(key.blockGroups.map(\.blockID.localID) == Array(0..<9))
        #expect(Set(key.blockGroups.map(\.blockID.containerID)) == [ContainerID(6)])
    }
}

@Suite("OzoneManager: answers and requests with bounds")
struct BoundsTests {
    @Test("a group has as many places as its replication; one that has none is left to its reader")
    func placesOfEach() throws {
        var messages = try ["rs-3-2-1024k", "ratis-3", "ratis-1"].map {
            try ReplicationConfig($0).message
        }
        messages.append(
            .with {
                $0.data = .max; $0.parity = .max; $0.cellSize = .max
            })
        var response = OMKeyResponse()
        response.key.groups = messages.map { message in .with { $0.replication = message } }
        OzoneManager.fillNodes(&response, from: [:])
        #expect(response.key.groups.map(\.nodes.count) == [5, 3, 1, 0])
    }

    @Test("places are given for as many groups as go into one answer")
    func places() {
        let replication: WireReplication = .with {
            $0.data = 3
            $0.parity = 2
            $0.cellSize = 1 << 20
        }
        var response = OMKeyResponse()
        response.key.groups = (0..<9000).map { place in
            .with {
                $0.block.container = 1
                $0.block.local = UInt64(place)
                $0.replication = replication
                $0.length = 10
            }
        }
        response.excerpt = [.with { $0.groupsOffset = 70 }]
        let node = DatanodeAddress(
            id: DatanodeID(high: 1, low: 2), host: String(repeating: "h", count: 200), port: 9)
        OzoneManager.fillNodes(
            &response, from: [ContainerID(1): Array(repeating: node, count: 5)])
        let count = response.key.groups.count
        #expect(count > 1000 && count < 9000)
        #expect(response.excerpt.first?.groupsEnd == UInt64(70 + 10 * count))
        #expect(response.excerpt.first?.groupsOffset == 70)
        #expect(response.key.groups.allSatisfy { $0.nodes.count == 5 })
        #expect(response.encoded.count < OMLimits.answerBytes + (64 << 10))
    }

    @Test("a request that is too large is refused with the limit that it exceeds")
    func requests() {
        let long = String(repeating: "x", count: OMLimits.textSize + 1)
        var commit = OMCommitRequest()
        commit.etag = long
        var many = OMCommitRequest()
        many.groups = Array(repeating: WireGroup(), count: OMLimits.blocksPerKey + 1)
        var complete = OMCompleteUploadRequest()
        complete.parts = Array(repeating: OMCompletedPart(), count: OMLimits.parts + 1)
        var list = OMListKeysRequest()
        list.delimiter = .octets(Array(repeating: 1, count: OMLimits.markerSize + 1))
        var allocate = OMAllocateGroupRequest()
        allocate.excludingContainers = Array(repeating: 1, count: OMLimits.exclusions + 1)
        var user = OMUser()
        user.displayName = long
        expectRefusal(OMLimits.textSize) { try RequestRules.check(user) }
        expectRefusal(OMLimits.textSize) { try RequestRules.check(commit) }
        expectRefusal(OMLimits.blocksPerKey) { try RequestRules.check(many) }
        expectRefusal(OMLimits.parts) { try RequestRules.check(complete) }
        expectRefusal(OMLimits.markerSize) { try RequestRules.check(list) }
        expectRefusal(OMLimits.exclusions) { try RequestRules.check(allocate) }
        let nodes = Array(repeating: WireIdentity(), count: OMLimits.exclusions + 1)
        expectRefusal(OMLimits.exclusions) { try RequestRules.check(avoiding: nodes) }
        var slow = OMAllocateGroupRequest()
        slow.slow = nodes
        expectRefusal(OMLimits.exclusions) { try RequestRules.check(slow) }
    }

    private func expectRefusal(_ limit: Int, _ check: () throws -> Void) {
        let error = #expect(throws: StoreError.self) { try check() }
        #expect(error?.code == .invalidArgument)
        #expect(error?.message.contains("\(limit)") == true)
    }
}
