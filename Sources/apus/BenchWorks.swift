import ArgumentParser
import Client
import Foundation
import Model

// The kinds of load, each with its command.

/// Which keys writes go to.
struct BenchTargets: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Write to N keys again and again, instead of to a new one each time: what they held "
                + "is deleted.", valueName: "n"))
    var replace: Int?

    func validate() throws {
        guard (replace ?? 1) >= 1 else { throw ValidationError("--replace takes 1 and more") }
    }

    /// The number of the key that operation `index` writes.
    func key(of index: Int) -> Int {
        guard let replace else { return index }
        var random = BenchRandom(seed: UInt64(index) ^ 0x7265)
        return Int.random(in: 0..<replace, using: &random)
    }
}

/// Writes keys of the sizes asked for.
struct BenchPut: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "put", abstract: "Write keys.",
        discussion: "Example: apus bench put --dir DIR --size 64k-64m --clients 16 --duration 1m")
    @OptionGroup var options: BenchOptions
    @OptionGroup var sizes: BenchSizes
    @OptionGroup var targets: BenchTargets

    private struct Work: BenchWork {
        let kinds = ["put"]
        let keys: BenchKeys
        let targets: BenchTargets
        func kind(of index: Int) -> Int { 0 }
        func perform(_ index: Int) async throws -> Int {
            try await keys.write(
                keys.path("put", targets.key(of: index)), bytes: keys.sizes.size(of: index))
        }
    }

    func run() async throws {
        let session = try await BenchSession("put", options, sizes.size)
        try await session.run { Work(keys: $0.keys, targets: targets) }
    }
}

/// How many keys reads choose from.
struct BenchObjects: ParsableArguments {
    @Option(help: "Keys to write first, when there are none under --prefix.") var objects = 64
    func validate() throws {
        guard objects >= 1 else { throw ValidationError("--objects takes 1 and more") }
    }
}

/// Reads whole keys, chosen at random.
struct BenchGet: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get", abstract: "Read whole keys, at random, and verify them.",
        discussion: "Keys that an earlier run left with --keep are read with --prefix.")
    @OptionGroup var options: BenchOptions
    @OptionGroup var sizes: BenchSizes
    @OptionGroup var objects: BenchObjects

    private struct Work: BenchWork {
        let kinds = ["get"]
        let keys: BenchKeys
        let paths: [KeyPath]
        func kind(of index: Int) -> Int { 0 }
        func perform(_ index: Int) async throws -> Int {
            var random = BenchRandom(seed: UInt64(index))
            let path = paths[Int.random(in: paths.indices, using: &random)]
            return try await keys.read(path) { 0..<$0 }
        }
    }

    func run() async throws {
        let session = try await BenchSession("get", options, sizes.size)
        try await session.run {
            let paths = try await $0.existingOrNew("get", count: objects.objects)
            return Work(keys: $0.keys, paths: paths)
        }
    }
}

/// Reads ranges of keys, both chosen at random.
struct BenchRange: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "range", abstract: "Read ranges of keys, at random, and verify them.")
    @OptionGroup var options: BenchOptions
    @OptionGroup var sizes: BenchSizes
    @OptionGroup var objects: BenchObjects
    @Option(name: .customLong("range"), help: "Bytes of each range, as for --size.")
    var ranges = SizeDistribution(argument: "64k")!

    private struct Work: BenchWork {
        let kinds = ["range"]
        let keys: BenchKeys
        let paths: [KeyPath]
        let ranges: SizeDistribution
        func kind(of index: Int) -> Int { 0 }
        func perform(_ index: Int) async throws -> Int {
            var random = BenchRandom(seed: UInt64(index))
            let path = paths[Int.random(in: paths.indices, using: &random)]
            let place = random.unit()
            let wanted = ranges.size(of: index)
            return try await keys.read(path) { length in
                let count = min(wanted, length)
                let start = Int(Double(length - count) * place)
                return start..<start + count
            }
        }
    }

    func run() async throws {
        let session = try await BenchSession("range", options, sizes.size)
        try await session.run {
            let paths = try await $0.existingOrNew("range", count: objects.objects)
            return Work(keys: $0.keys, paths: paths, ranges: ranges)
        }
    }
}

/// Reads and writes whole keys, in a proportion.
struct BenchMixed: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mixed", abstract: "Read whole keys and write others at the same time.")
    @OptionGroup var options: BenchOptions
    @OptionGroup var sizes: BenchSizes
    @OptionGroup var objects: BenchObjects
    @OptionGroup var targets: BenchTargets
    @Option(help: "Reads of 100 operations.") var reads = 70

    private struct Work: BenchWork {
        let kinds = ["get", "put"]
        let keys: BenchKeys
        let paths: [KeyPath]
        let targets: BenchTargets
        let reads: Int
        func kind(of index: Int) -> Int {
            var random = BenchRandom(seed: UInt64(index))
            return Int.random(in: 0..<100, using: &random) < reads ? 0 : 1
        }
        func perform(_ index: Int) async throws -> Int {
            guard kind(of: index) == 0 else {
                return try await keys.write(
                    keys.path("put", targets.key(of: index)), bytes: keys.sizes.size(of: index))
            }
            var random = BenchRandom(seed: UInt64(index) ^ 0x77)
            let path = paths[Int.random(in: paths.indices, using: &random)]
            return try await keys.read(path) { 0..<$0 }
        }
    }

    func validate() throws {
        guard (0...100).contains(reads) else { throw ValidationError("--reads takes 0 to 100") }
    }

    func run() async throws {
        let session = try await BenchSession("mixed", options, sizes.size)
        try await session.run {
            let paths = try await $0.existingOrNew("get", count: objects.objects)
            return Work(keys: $0.keys, paths: paths, targets: targets, reads: reads)
        }
    }
}

/// Lists pages of names from random places.
struct BenchList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List pages of keys from random places, and verify them.")
    @OptionGroup var options: BenchOptions
    @Option(help: "Empty keys to make first, when there are none under --prefix.")
    var objects = 10_000
    @Option(help: "Keys of a page.") var page = 1000

    private struct Work: BenchWork {
        let kinds = ["list"]
        let keys: BenchKeys
        let prefix: [UInt8]
        let paths: [KeyPath]
        let page: Int
        func kind(of index: Int) -> Int { 0 }
        func perform(_ index: Int) async throws -> Int {
            var random = BenchRandom(seed: UInt64(index))
            let start = Int.random(in: paths.indices, using: &random)
            let query = ListQuery(
                prefix: prefix, startAfter: paths[start].name.bytes, limit: page)
            let found = try await keys.client.list(keys.bucket, query, user: keys.user)
            let expected = paths[(start + 1)...].prefix(page)
            guard found.keys.map(\.name) == expected.map(\.name) else {
                throw BenchMismatch(
                    description: "the page after \(paths[start]) has \(found.keys.count) keys, "
                        + "not the \(expected.count) that are there")
            }
            return 0
        }
    }

    func validate() throws {
        guard objects >= 1 else { throw ValidationError("--objects takes 1 and more") }
        guard (1...1000).contains(page) else { throw ValidationError("--page takes 1 to 1000") }
    }

    func run() async throws {
        let session = try await BenchSession("list", options, .empty)
        try await session.run {
            let given = try await $0.given()
            let paths = try await $0.existingOrNew("list", count: objects, bytes: 0)
            let prefix = given == nil ? $0.keys.prefix : options.prefix ?? ""
            return Work(keys: $0.keys, prefix: Array(prefix.utf8), paths: paths, page: page)
        }
    }
}

/// Works on the names of keys without bytes: no datanode is asked.
struct BenchOM: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "om", abstract: "Names alone: create, look up or delete empty keys.")
    @OptionGroup var options: BenchOptions
    @Option(help: "create, info or delete (which needs --count).")
    var operation = Operation.create
    @Option(help: "Empty keys to make first for info.") var objects = 1000
    @Option(
        help: """
            For create: the length in bytes to commit, with blocks of which none is written. \
            With --keep such keys stay, and cannot be read.
            """)
    var length = 0
    @Flag(help: "For create: names in no order, between those of other runs; with --keep.")
    var scatter = false

    /// What is done to a name.
    enum Operation: String, ExpressibleByArgument, CaseIterable, Sendable {
        case create, info, delete
    }

    private struct Work: BenchWork {
        var kinds: [String] { [operation.rawValue] }
        let keys: BenchKeys
        let paths: [KeyPath]
        let operation: Operation
        let length: Int
        let isScattered: Bool
        func kind(of index: Int) -> Int { 0 }
        func perform(_ index: Int) async throws -> Int {
            switch operation {
            case .create:
                let path = isScattered ? keys.scattered(index) : keys.path("om", index)
                _ = try await keys.client.createUnwritten(
                    path, length: length, replication: keys.replication, user: keys.user)
                return 0
            case .info:
                var random = BenchRandom(seed: UInt64(index))
                let path = paths[Int.random(in: paths.indices, using: &random)]
                let info = try await keys.client.key(path, user: keys.user)
                guard info.name == path.name else {
                    throw BenchMismatch(description: "asked for \(path), got \(info.name)")
                }
            case .delete:
                let existed = try await keys.client.deleteKey(
                    paths[index], condition: .none, user: keys.user)
                guard existed else { throw BenchMismatch(description: "no key \(paths[index])") }
            }
            return 0
        }
    }

    func validate() throws {
        guard objects >= 1 else { throw ValidationError("--objects takes 1 and more") }
        guard (0...1 << 30).contains(length) else {
            throw ValidationError("--length takes 0 to \(1 << 30) bytes")
        }
        if scatter && !options.keep {
            throw ValidationError("--scatter needs --keep: such keys are not removed by themselves")
        }
        if operation == .delete && options.count == nil {
            throw ValidationError("--operation delete needs --count")
        }
    }

    func run() async throws {
        let session = try await BenchSession("om", options, .empty)
        try await session.run {
            var paths: [KeyPath] = []
            switch operation {
            case .create: break
            case .info: paths = try await $0.existingOrNew("om", count: objects, bytes: 0)
            case .delete:
                paths = try await $0.keys.prepare(
                    "om", count: options.count ?? 1, bytes: 0, clients: options.clients)
            }
            return Work(
                keys: $0.keys, paths: paths, operation: operation, length: length,
                isScattered: scatter)
        }
    }
}

extension SizeDistribution {
    /// Keys without bytes.
    static let empty = SizeDistribution(argument: "0")!
}
