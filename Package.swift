// swift-tools-version: 6.2
import PackageDescription

// One target per folder of Sources; a target imports only from the layers below it
// (docs/ARCHITECTURE.md has the layers, Tests/TidyTests checks them).

let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

// An async function without isolation of its own stays on its caller's executor: no change of
// executor at each call between an actor and what it calls.
let nonsending: [SwiftSetting] = [.enableUpcomingFeature("NonisolatedNonsendingByDefault")]

func target(
    _ name: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = [],
    staysOnCaller: Bool = true
) -> Target {
    .target(
        name: name, dependencies: dependencies, path: "Sources/\(name)", exclude: exclude,
        swiftSettings: settings + (staysOnCaller ? nonsending : []))
}

func shim(_ name: String, link library: String? = nil) -> Target {
    .target(
        name: name, path: "CShims/\(name)",
        cSettings: [.unsafeFlags(["-O2"])],
        linkerSettings: library.map { [.linkedLibrary($0)] } ?? [])
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(
        name: name, dependencies: dependencies, path: "Tests/\(name)", swiftSettings: settings)
}

extension Target.Dependency {
    static let protobuf: Self = .product(name: "SwiftProtobuf", package: "swift-protobuf")
    static let deque: Self = .product(name: "DequeModule", package: "swift-collections")
    static let hashTree: Self = .product(
        name: "HashTreeCollections", package: "swift-collections")
    static let heap: Self = .product(name: "HeapModule", package: "swift-collections")
    static let log: Self = .product(name: "Logging", package: "swift-log")
    static let grdb: Self = .product(name: "GRDB", package: "GRDB.swift")
    static let sqlite: Self = .product(name: "GRDBSQLite", package: "GRDB.swift")
    static let crypto: Self = .product(name: "Crypto", package: "swift-crypto")
    static let hummingbird: Self = .product(name: "HummingbirdCore", package: "hummingbird")
    static let nio: Self = .product(name: "NIOCore", package: "swift-nio")
    static let nioHTTP1: Self = .product(name: "NIOHTTP1", package: "swift-nio")
    static let nioPosix: Self = .product(name: "NIOPosix", package: "swift-nio")
    static let nioHTTPTypes: Self = .product(name: "NIOHTTPTypes", package: "swift-nio-extras")
    static let httpTypes: Self = .product(name: "HTTPTypes", package: "swift-http-types")
    static let lifecycle: Self = .product(
        name: "ServiceLifecycle", package: "swift-service-lifecycle")
    static let system: Self = .product(name: "SystemPackage", package: "swift-system")
    static let arguments: Self = .product(name: "ArgumentParser", package: "swift-argument-parser")
    static let configuration: Self = .product(
        name: "Configuration", package: "swift-configuration")
}

let package = Package(
    name: "apus",
    platforms: [.macOS(.v26)],
    dependencies: [
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.90.0"),
        .package(url: "https://github.com/apple/swift-nio-extras", from: "1.30.0"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.5.0"),
        .package(
            url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.9.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(
            url: "https://github.com/apple/swift-configuration", from: "1.4.0",
            traits: [.defaults]),
    ],
    targets: [
        // C shims: headers and inline functions that Swift cannot import. No policy.
        shim("CLiburing", link: "uring"),
        shim("CISAL", link: "isal"),
        shim("CLinux"),
        shim("CChecksum"),
        shim("CDigest"),
        shim("CGalois"),

        // L0: values and arithmetic
        target("Bytes", ["CLinux"]),
        target("Model"),
        target("Checksum", ["CISAL", "CChecksum", "CDigest"]),
        target("ErasureCode", ["Model", "Checksum", "CISAL", "CGalois"]),
        target("Telemetry"),
        target("Linearizability"),

        // L1: pure cores
        target("Raft"),
        target("Wire", ["Model", "Bytes", "Checksum", .protobuf], exclude: ["proto"]),
        target("OMCore", ["Model", "Wire", .protobuf]),
        target("SCMCore", ["Model", "Wire", .deque, .heap]),
        target("ContainerFormat", ["Model", "Checksum"]),

        // L2: runtime
        target("Reactor", ["Bytes", "Telemetry", "CLiburing", "CLinux", .deque, .heap]),
        target(
            "Transport",
            ["Wire", "Model", "Bytes", "Checksum", "Reactor", "Telemetry", .deque]),

        // L3: durable state
        target("MetadataStore", ["Model", .grdb, .hashTree]),
        target("RaftLog", ["Raft", "Model", "Bytes", "Checksum", "Reactor", .deque]),
        target(
            "RaftDriver",
            [
                "Raft", "RaftLog", "MetadataStore", "Transport", "Wire", "Model", "Bytes",
                "Reactor", "Telemetry", .deque,
            ]),
        target(
            "ContainerStore",
            ["Reactor", "Telemetry", "ContainerFormat", "Checksum", "Model", "Bytes"]),

        // L4: services
        target(
            "OM",
            [
                "OMCore", "RaftDriver", "MetadataStore", "Transport", "Wire", "Model", "Reactor",
                "Telemetry", .deque, .log,
            ]),
        target(
            "SCM",
            [
                "SCMCore", "RaftDriver", "Transport", "Wire", "Model", "Reactor", "Telemetry", .log,
            ]),
        target(
            "Datanode",
            [
                "ContainerStore", "ContainerFormat", "ErasureCode", "Checksum", "Transport", "Wire",
                "Model", "Bytes", "Reactor", "Telemetry",
                .deque, .log,
            ]),
        target("DiskTune", ["Reactor", "ContainerFormat", "Telemetry", "Model", "Bytes"]),
        target(
            "Client",
            ["Model", "Bytes", "Wire", "Checksum", "ErasureCode", "Reactor", "Transport"]),

        // L5: gateways, the only targets that import NIO or Hummingbird
        target(
            "S3Gateway",
            [
                "Bytes", "Model", "Checksum", "Client", "Reactor", "Telemetry", .crypto, .deque,
                .hummingbird, .nio, .nioHTTP1, .nioPosix, .nioHTTPTypes, .httpTypes, .lifecycle,
                .log,
            ], staysOnCaller: false),
        target(
            "MetricsGateway",
            ["Model", "Reactor", "Telemetry", .nio, .nioHTTP1, .nioPosix, .log],
            staysOnCaller: false),

        // L6: programs
        .executableTarget(
            name: "apus",
            dependencies: [
                "OM", "SCM", "RaftDriver", "Datanode", "DiskTune", "Client", "S3Gateway",
                "MetricsGateway",
                "ContainerFormat", "Transport", "ContainerStore", "RaftLog", "OMCore", "SCMCore",
                "Wire",
                "Linearizability", "Model", "Bytes", "Reactor", "Telemetry", .arguments,
                .configuration, .crypto, .log,
                .system,
            ], path: "Sources/apus", exclude: ["Package"], swiftSettings: settings),

        // Programs of `make bench`: kernels beside their yardsticks, load, the data path
        .executableTarget(name: "http-load", path: "Bench/HTTPLoad", swiftSettings: settings),
        .executableTarget(
            name: "datapath-bench",
            dependencies: [
                "ContainerStore", "Transport", "Reactor", "Bytes", "Checksum", "Model",
            ], path: "Bench/Datapath", swiftSettings: settings),
        .executableTarget(
            name: "kernel-bench", dependencies: ["ErasureCode", "Checksum", "Model", "CISAL"],
            path: "Bench/Kernels", swiftSettings: settings),
        .executableTarget(
            name: "raft-bench", dependencies: ["Raft"], path: "Bench/Raft",
            swiftSettings: settings),
        .executableTarget(
            name: "scm-bench", dependencies: ["SCMCore", "Wire", "Model", "CLinux"],
            path: "Bench/SCM",
            swiftSettings: settings),

        // Beside the stack, never imported by L0-L5
        target("TestSupport", ["Bytes", "Model", "Client"]),
        target("Eventually"),
        target("Chance"),
        target(
            "GroupTestSupport", ["RaftDriver", "RaftLog", "Raft", "Transport", "Reactor", "Model"]),
        target("Simulator", ["Raft"]),
        target(
            "GroupSimulator",
            [
                "Simulator", "RaftDriver", "RaftLog", "MetadataStore", "Transport", "Wire",
                "Raft", "Reactor", "Model", "Bytes",
            ]),
        .executableTarget(
            name: "simulate", dependencies: ["Simulator", "GroupSimulator"],
            path: "Sources/simulate", swiftSettings: settings),

        // Tests
        tests("ModelTests", ["Model"]),
        tests("ChecksumTests", ["Checksum", "CDigest"]),
        tests("TelemetryTests", ["Telemetry"]),
        tests("LinearizabilityTests", ["Chance", "Linearizability"]),
        tests("MetricsGatewayTests", ["MetricsGateway", "Telemetry", "Model", .log]),
        tests("MetadataStoreTests", ["Chance", "MetadataStore", "Model", .grdb]),
        tests("RaftTests", ["Chance", "Raft"]),
        tests("SimulatorTests", ["Simulator", "Raft"]),
        tests(
            "GroupSimulatorTests",
            [
                "GroupSimulator", "Simulator", "RaftDriver", "RaftLog", "MetadataStore", "Reactor",
                "Raft", "Bytes", "Model",
            ]),
        tests(
            "RaftLogTests",
            ["Eventually", "RaftLog", "Raft", "Reactor", "Model", "Bytes", "Checksum"]),
        tests(
            "RaftDriverTests",
            [
                "Chance", "Eventually", "GroupTestSupport", "RaftDriver", "Raft", "RaftLog",
                "MetadataStore",
                "Transport", "Wire", "Reactor", "Model", .sqlite,
            ]),
        tests("OMCoreTests", ["Chance", "OMCore", "MetadataStore", "Wire", "Model", .protobuf]),
        tests(
            "OMTests",
            [
                "Eventually", "OM", "OMCore", "Client", "RaftDriver", "RaftLog", "Reactor", "Wire",
                "Model",
                .protobuf, .log,
            ]),
        tests(
            "ClientTests",
            ["Client", "ErasureCode", "Checksum", "Transport", "Wire", "Bytes", "Reactor", "Model"]),
        tests("ErasureCodeTests", ["ErasureCode", "Checksum", "Model", "CISAL", "CGalois"]),
        tests("ContainerFormatTests", ["ContainerFormat", "Checksum", "Model"]),
        tests(
            "ContainerStoreTests",
            [
                "Eventually", "ContainerStore", "Reactor", "Telemetry", "ContainerFormat",
                "Checksum", "Model",
                "Bytes",
            ]),
        tests("ReactorTests", ["Eventually", "Reactor", "Bytes", "Telemetry"]),
        tests("SCMCoreTests", ["Chance", "SCMCore", "Wire", "Model"]),
        tests(
            "SCMTests",
            [
                "Eventually", "GroupTestSupport", "SCM", "SCMCore", "RaftDriver", "Raft", "RaftLog",
                "Transport",
                "Wire", "Reactor", "Model", .log,
            ]),
        tests(
            "DatanodeTests",
            [
                "Eventually", "Datanode", "ContainerStore", "ContainerFormat", "ErasureCode",
                "Checksum", "Transport", "Wire", "Reactor",
                "Model", "Bytes", .log,
            ]),
        tests(
            "DiskTuneTests",
            ["DiskTune", "Checksum", "Reactor", "ContainerFormat", "Telemetry", "Model", "Bytes"]),
        tests("TidyTests", []),
        tests(
            "ApusTests",
            [
                "apus", "SCMCore", "RaftDriver", "Raft", "Wire", "Model", .arguments,
                .configuration,
            ]),
        tests("WireTests", ["Wire", "Model", .protobuf]),
        tests("TransportTests", ["Eventually", "Transport", "Wire", "Model", "Bytes", "Reactor"]),
        tests(
            "S3GatewayTests",
            [
                "Chance", "Eventually", "S3Gateway", "TestSupport", "Bytes", "Model", "Client",
                "Telemetry",
                .crypto, .log,
            ]),
    ]
)
