import CLinux
import Glibc
import Model
import SCMCore
import Wire

// What SCM's decisions cost with many containers: its pure core, one thread, rows of closed
// containers of rs-6-3 in memory, nodes of 24 disks.
//
//     swift run -c release scm-bench [CONTAINERS NODES]
//
// Prints JSON: seconds of one heartbeat without news, of one with one replica's news, and of one
// look at everything that is due (twice a second), medians of rounds; bytes of memory.

func fail(_ text: String) -> Never {
    let line = Array("scm-bench: \(text)\n".utf8)
    _ = line.withUnsafeBytes { write(2, $0.baseAddress, $0.count) }
    exit(2)
}

let numbers = CommandLine.arguments.dropFirst().map { Int($0) ?? 0 }
guard numbers.isEmpty || (numbers.count == 2 && numbers.allSatisfy { $0 > 0 }) else {
    fail("usage: scm-bench [CONTAINERS NODES]")
}
let containers = numbers.first ?? 100_000
let nodes = numbers.last ?? 100
let racks = 10
guard nodes >= 9 else { fail("rs-6-3 needs 9 nodes, not \(nodes)") }

func residentBytes() -> Int {
    guard let file = fopen("/proc/self/statm", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 256)
    guard fgets(&line, 256, file) != nil else { return 0 }
    let text = String(
        decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return (text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * 4096
}

/// Numbers from a seed (SplitMix64; Steele, Lea and Flood 2014).
struct Chance: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

struct Cluster {
    var state: SCMState
    var now: UInt64 = 1_000_000_000
    var chance = Chance(state: 1)
    /// A replica of each node's.
    var samples: [SCMReplicaReport?] = []

    static func address(_ number: Int) -> DatanodeAddress {
        DatanodeAddress(
            id: Identity128(high: 7, low: UInt64(number)), host: "10.0.0.1", port: 1000 + number,
            rack: "/rack\(number % racks)")
    }

    static var volumes: [DNVolume] {
        var volume = DNVolume()
        volume.capacity = 16 << 40
        volume.available = 8 << 40
        return Array(repeating: volume, count: 24)
    }

    static func report(_ container: UInt64, _ index: Int, bytes: UInt64) -> SCMReplicaReport {
        var report = SCMReplicaReport()
        report.container = container
        report.replicaIndex = UInt32(index)
        report.state = .closed
        report.usedBytes = bytes
        report.blocks = 700
        return report
    }

    /// Rows as SCM finds them at its start, then what each node says when it registers.
    init() throws {
        let tables = InMemoryTables()
        let replication = try ReplicationConfig("rs-6-3-1024k").message
        var held = [[SCMReplicaReport]](repeating: [], count: nodes)
        for number in 0..<nodes {
            let address = Self.address(number)
            var key: [UInt8] = []
            for shift in stride(from: 56, through: 0, by: -8) {
                key.append(UInt8(truncatingIfNeeded: address.id.high >> UInt64(shift)))
            }
            for shift in stride(from: 56, through: 0, by: -8) {
                key.append(UInt8(truncatingIfNeeded: address.id.low >> UInt64(shift)))
            }
            tables.put(SCMTable.nodes, key, address.message.encoded)
        }
        for number in 1...UInt64(containers) {
            var record = SCMContainerRecord()
            record.id = number
            record.pipeline = number
            record.replication = replication
            record.state = .containerClosed
            record.witnessedIndexes = Array(1...9)
            record.stores = Array(repeating: 100, count: 9)
            let first = Int.random(in: 0..<nodes, using: &chance)
            for place in 0..<9 {
                let node = (first + place * (nodes / 9)) % nodes
                record.nodes.append(Self.address(node).message)
                held[node].append(Self.report(number, place + 1, bytes: 5 << 30))
            }
            var key: [UInt8] = []
            for shift in stride(from: 56, through: 0, by: -8) {
                key.append(UInt8(truncatingIfNeeded: number >> UInt64(shift)))
            }
            tables.put(SCMTable.containers, key, record.encoded)
        }
        samples = held.map(\.first)
        state = try SCMState(options: .init(), reading: tables, at: now)
        state.lead(in: 1, at: now)
        state.caughtUp(in: 1)
        for number in 0..<nodes {
            _ = state.registered(
                Self.address(number), volumes: Self.volumes, replicas: held[number], store: 100,
                epoch: 1, at: now)
            held[number] = []
        }
        state.leaveSafeMode()
        // A leader looks at each container once, some at a time.
        for _ in 0..<containers / 8192 + 4 { look() }
    }

    mutating func look() {
        _ = state.dueWitnesses()
        _ = state.dueStateChanges(at: now)
        _ = state.dueRepairEnds(at: now)
        _ = state.dueRepairStarts(at: now, using: &chance)
        _ = state.dueOperations(at: now, wall: 1)
    }

    mutating func beat(_ number: Int, _ replicas: [SCMReplicaReport] = []) {
        let id = Self.address(number).id
        _ = state.heard(
            id, volumes: volumes, replicas: replicas, isFull: false, store: 100, epoch: 1, at: now)
        state.heard(id, failed: [], unreclaimed: 0, at: now)
        _ = state.commands(for: id, at: now)
    }

    private let volumes = Self.volumes
}

/// Seconds of one of `count` calls; the median of seven rounds.
func seconds(of count: Int, _ body: (Int) -> Void) -> Double {
    var rounds: [Double] = []
    for _ in 0..<7 {
        let duration = ContinuousClock().measure { for number in 0..<count { body(number) } }
        let (whole, atto) = duration.components
        rounds.append((Double(whole) + Double(atto) / 1e18) / Double(count))
    }
    return rounds.sorted()[3]
}

do {
    let before = residentBytes()
    var cluster = try Cluster()
    // What the rows and messages took that it was made from.
    apus_trim_heap()
    let memory = residentBytes() - before
    let quiet = seconds(of: 20_000) { cluster.beat($0 % nodes) }
    let news = seconds(of: 2000) { number in
        let node = number % nodes
        if let own = cluster.samples[node] { cluster.beat(node, [own]) }
    }
    cluster.look()
    let look = seconds(of: 200) { _ in cluster.look() }
    print(
        """
        {"containers": \(containers), "nodes": \(nodes), "heartbeatSeconds": \(quiet), \
        "newsSeconds": \(news), "lookSeconds": \(look), "memoryBytes": \(memory)}
        """)
} catch {
    fail("\(error)")
}
