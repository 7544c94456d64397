import Bytes
import Client
import ContainerStore
import Datanode
import Foundation
import Logging
import Model
import OM
import RaftDriver
import Reactor
import S3Gateway
import SCM
import SCMCore
import Telemetry
import Transport
import Wire

/// What the roles of one process share: reactors and channels.
struct Runtime: Sendable {
    let reactors: ReactorGroup
    let channels: ChannelPool
    /// What roles have done when the process has nothing to do.
    let idle = IdleWork()

    /// What the memory of cells is for.
    enum Memory {
        /// Disks: huge pages, registered with the rings.
        case disks
        /// Datanodes of other processes: shared with those of this machine.
        case datanodes
        /// There are no cells.
        case none
    }

    init(name: String, memory: Memory, reactors count: Int? = nil) throws {
        switch memory {
        case .disks: break
        case .datanodes: BufferPool.shareProcessPool()
        case .none: BufferPool.keepProcessPoolSmall()
        }
        reactors = try ReactorGroup(count: count, registersArena: memory == .disks)
        channels = ChannelPool(name: name)
    }
}

/// A role that runs in this process, and how to stop it.
struct RunningRole: Sendable {
    var name: String
    var port: Int
    /// nil: it tells no metrics.
    var metrics: MetricsEndpoint?
    var stop: @Sendable () async -> Void
}

func makeLogger(_ label: String, level: String) -> Logger {
    var logger = Logger(label: label) { StreamLogHandler.standardError(label: $0) }
    logger.logLevel = Logger.Level(rawValue: level) ?? .info
    return logger
}

func report(_ logger: Logger, _ what: String, _ body: () async throws -> Void) async {
    do {
        try await body()
    } catch {
        logger.error("\(what): \(error)")
    }
}

enum Roles {
    static func startSCM(_ settings: Settings, _ runtime: Runtime) async throws -> RunningRole {
        let logger = makeLogger("scm", level: settings.text("log.level"))
        let directory = try settings.required("scm.directory")
        let lock = try await DirectoryLock(directory)
        var options = StorageContainerManager.Options()
        options.state.minimumDatanodes = try settings.number("scm.minimum-datanodes")
        options.state.staleAfterNanoseconds = try settings.nanoseconds("scm.stale-after-ms")
        options.state.deadAfterNanoseconds = try settings.nanoseconds("scm.dead-after-ms")
        options.state.containerSize = try settings.number("scm.container-bytes")
        options.state.diskFailuresPerYear =
            Double(try settings.number("scm.disk-failures-percent", in: 1...100)) / 100
        options.state.openContainers = try settings.number("scm.open-containers", in: 1...1000)
        options.state.bytesPerOpenReplica = UInt64(
            try settings.number("scm.open-replica-bytes-per-second", in: 1...(1 << 40)))
        options.state.maintenanceRedundancy = try settings.number(
            "scm.maintenance-redundancy", in: 0...16)
        let closeDelay = try settings.number("scm.close-delay-ms", in: 0...600_000)
        options.state.closeDelayNanoseconds = UInt64(closeDelay) * 1_000_000
        // When lost replicas are rebuilt, and how many at a time.
        options.state.repairAfterNanoseconds = try settings.nanoseconds("scm.repair-after-ms")
        options.state.healPatienceNanoseconds = try settings.nanoseconds("scm.heal-patience-ms")
        options.state.repairsPerTarget = try settings.number(
            "scm.repairs-per-target", in: 1...64)
        options.state.repairsPerSource = try settings.number(
            "scm.repairs-per-source", in: 1...1024)
        options.cluster = ClusterID(settings.text("cluster.id"))
        var group = MetadataGroupOptions()
        group.member.snapshotBytesPerSecond = try snapshotRate("scm", settings)
        let reactor = runtime.reactors.next()
        let port = try GroupPort(
            settings, "scm", runtime, on: reactor, [runtime.reactors.next()], logger)
        let identity = try await port.identity()
        let manager = try await StorageContainerManager.open(
            directory: directory, as: (identity, runtime.channels), reactor: reactor,
            options: options, group: group, random: SystemRandomNumberGenerator(), logger: logger)
        let keeper = manager.keeper(
            as: identity, address: port.place.address, channels: runtime.channels)
        await manager.start()
        runtime.idle.add { await manager.releaseMemory() }
        let telemetry = try telemetry("scm", settings)
        manager.addMetrics(to: telemetry.metrics)
        port.service.open(
            keeper,
            serving: MeasuredHandler(
                manager, methods: SCMMethod.allCases.map(\.rawValue), telemetry: telemetry))
        keeper.start()
        let metrics = try await serve(telemetry, "scm", settings, logger)
        return RunningRole(name: "scm", port: port.server.port, metrics: metrics) {
            await metrics?.stop()
            keeper.cancel()
            await port.server.stop()
            await report(logger, "closing") { try await manager.close() }
            await keeper.stop()
            lock.release()
        }
    }

    /// How many reactors the Ozone Manager runs on: the first has its log, the others the
    /// connections; one alone has both.
    static func reactorsOfOM(_ settings: Settings) throws -> Int {
        let wanted = try settings.number("om.reactors", in: 0...256)
        return wanted > 0 ? wanted : max(1, ProcessInfo.processInfo.activeProcessorCount / 4)
    }

    /// How long discarded blocks stay. A reader says within a second or two that it is under way.
    private static func deletionDelay(_ settings: Settings) throws -> Duration {
        .milliseconds(try settings.number("om.deletion-delay-ms", in: 3000...86_400_000))
    }

    /// How fast a role's tables are copied for other members.
    private static func snapshotRate(_ role: String, _ settings: Settings) throws -> Int {
        let key = "\(role).snapshot-bytes-per-second"
        let rate = try settings.number(key)
        guard rate == 0 || rate >= RaftMemberLimits.leastSnapshotRate else {
            throw StoreError(
                .invalidArgument,
                "\(key) is 0 or at least \(RaftMemberLimits.leastSnapshotRate), not \(rate)")
        }
        return rate
    }

    static func startOM(_ settings: Settings, _ runtime: Runtime) async throws -> RunningRole {
        let logger = makeLogger("om", level: settings.text("log.level"))
        let directory = try settings.required("om.directory")
        let lock = try await DirectoryLock(directory)
        let reactor = runtime.reactors.next()
        // One alone serves connections as well: no request changes threads on its way.
        let count = try reactorsOfOM(settings)
        let serving = count == 1 ? [reactor] : (1..<count).map { _ in runtime.reactors.next() }
        let scm = try LeaderChannel(
            settings.addresses(of: "scm"), channels: runtime.channels, on: reactor)
        var options = try OzoneManager.Options(defaultReplication: settings.replication())
        options.cacheBytes = try settings.number("om.cache-bytes")
        options.deletionDelay = try deletionDelay(settings)
        options.group.member.snapshotBytesPerSecond = try snapshotRate("om", settings)
        let port = try GroupPort(settings, "om", runtime, on: reactor, serving, logger)
        let identity = try await port.identity()
        let manager = try await OzoneManager.open(
            directory: directory, as: (identity, runtime.channels), reactor: reactor,
            blocks: SCMBlockAllocator(scm), options: options,
            clock: { Timestamp(milliseconds: Int64(Date().timeIntervalSince1970 * 1000)) },
            generator: SystemRandomNumberGenerator(), logger: logger)
        let keeper = manager.keeper(
            as: identity, address: port.place.address, channels: runtime.channels)
        manager.start()
        runtime.idle.add { await manager.releaseMemory() }
        let telemetry = try telemetry("om", settings)
        manager.addMetrics(to: telemetry.metrics)
        port.service.open(
            keeper,
            serving: MeasuredHandler(
                OMService(manager), methods: OMMethod.allCases.map(\.rawValue),
                telemetry: telemetry))
        keeper.start()
        let metrics = try await serve(telemetry, "om", settings, logger)
        return RunningRole(name: "om", port: port.server.port, metrics: metrics) {
            await metrics?.stop()
            keeper.cancel()
            await port.server.stop()
            await report(logger, "closing") { try await manager.close() }
            await keeper.stop()
            lock.release()
        }
    }

    /// How many reactors a datanode runs on. With no more than it has volumes each connection is
    /// served where a disk's work is done: with one volume no request ever changes threads.
    static func reactorsOfDatanode(_ settings: Settings) throws -> Int {
        let wanted = try settings.number("datanode.reactors", in: 0...256)
        let cores = ProcessInfo.processInfo.activeProcessorCount
        let volumes = settings.list("datanode.volumes").count
        return wanted > 0 ? wanted : max(1, min(cores, volumes))
    }

    /// Logs what is to be known of the file systems that the volumes of datanodes lie on.
    static func remark(onVolumesOf datanodes: [Settings]) {
        guard let level = datanodes.first?.text("log.level") else { return }
        let logger = makeLogger("datanode", level: level)
        let volumes = datanodes.flatMap { $0.list("datanode.volumes") }
        for remark in MountTable.current().remarks(on: volumes) { logger.notice("\(remark)") }
    }

    static func startDatanode(
        _ settings: Settings, _ runtime: Runtime
    ) async throws -> RunningRole {
        let logger = makeLogger("datanode", level: settings.text("log.level"))
        let directory = try settings.required("datanode.directory")
        let lock = try await DirectoryLock(directory)
        let reactor = runtime.reactors.next()
        let host = settings.text("datanode.host")
        var options = Datanode.Options(
            host: host, port: try settings.number("datanode.port"),
            rack: settings.text("datanode.rack"), volumes: settings.list("datanode.volumes"),
            metadataDirectory: directory)
        guard !options.volumes.isEmpty else {
            throw StoreError(.invalidArgument, "the setting datanode.volumes is missing")
        }
        guard
            let durability = ContainerStore.Durability(
                rawValue: settings.text("datanode.durability"))
        else {
            throw StoreError(.invalidArgument, "datanode.durability is sync or writeback")
        }
        options.store.durability = durability
        let limit = try settings.number("datanode.volume-limit-bytes")
        guard limit >= 0 else {
            throw StoreError(
                .invalidArgument, "datanode.volume-limit-bytes is a number of bytes, not \(limit)")
        }
        options.store.volumeLimitBytes = limit == 0 ? nil : limit
        options.store.reclaimDelay = .milliseconds(
            try settings.number("datanode.reclaim-delay-ms", in: 0...3_600_000))
        options.reconstructionsAtOnce = try settings.number("datanode.reconstructions", in: 1...64)
        let record = try VolumeRecord.load(from: directory)
        options.store.refusedVolumes = record.refused(of: options.volumes, logger)
        let scms = try SCMClients(settings.addresses(of: "scm")) { address throws(StoreError) in
            let place = try HostPort(address)
            return SCMClient(
                runtime.channels.channel(host: place.host, port: place.port, on: reactor))
        }
        let datanode = try await Datanode.open(
            options, scms: scms, channels: runtime.channels, reactors: runtime.reactors.reactors,
            random: SystemRandomNumberGenerator(), logger: logger)
        try record.keep(options.volumes, in: directory)
        if let scrub = try scrubOptions(settings) {
            datanode.startScrubbing(scrub) {
                Timestamp(milliseconds: Int64(Date().timeIntervalSince1970 * 1000))
            }
        }
        let telemetry = try telemetry("datanode", settings)
        datanode.addMetrics(to: telemetry.metrics)
        let handler = MeasuredHandler(
            datanode, methods: DatanodeMethod.allCases.map(\.rawValue), telemetry: telemetry)
        let port = try datanode.start(reactors: runtime.reactors.reactors, serving: handler)
        runtime.channels.register(handler, host: host, port: port)
        let metrics = try await serve(telemetry, "datanode", settings, logger)
        return RunningRole(name: "datanode", port: port, metrics: metrics) {
            await metrics?.stop()
            await report(logger, "closing") { try await datanode.close() }
            lock.release()
        }
    }

    /// How the datanode's disks are scrubbed; nil: not at all.
    private static func scrubOptions(_ settings: Settings) throws -> Scrubber.Options? {
        let isEnabled = settings.text("datanode.scrub.enabled")
        guard isEnabled == "true" || isEnabled == "false" else {
            throw StoreError(
                .invalidArgument, "datanode.scrub.enabled is true or false, not '\(isEnabled)'")
        }
        let hours = try settings.number("datanode.scrub.period-hours", in: 1...87_600)
        let rate = try settings.number("datanode.scrub.bytes-per-second")
        guard isEnabled == "true" else { return nil }
        return Scrubber.Options(
            period: .seconds(hours * 3600), bytesPerSecond: rate == 0 ? nil : rate)
    }

    /// - Parameters:
    ///   - reactors: where its connections and tasks live; nil: on the runtime's.
    ///   - reads: which OMs answer questions; nil: as the settings say.
    static func client(
        _ settings: Settings, _ runtime: Runtime, on reactors: ReactorGroup? = nil,
        reads: LeaderChannel.ReadPlace? = nil
    ) throws -> ClusterClient {
        let window = try settings.number("client.window-bytes")
        guard window >= 0 else {
            throw StoreError(
                .invalidArgument, "client.window-bytes is a number of bytes, not \(window)")
        }
        return try ClusterClient(
            om: settings.addresses(of: "om"), scm: settings.addresses(of: "scm"),
            channels: runtime.channels, reactors: reactors ?? runtime.reactors,
            windowBytes: window, reads: reads ?? readPlace(settings))
    }

    private static func readPlace(_ settings: Settings) throws -> LeaderChannel.ReadPlace {
        let text = settings.text("client.reads")
        guard let place = LeaderChannel.ReadPlace(rawValue: text) else {
            let known = LeaderChannel.ReadPlace.allCases.map(\.rawValue)
            throw StoreError(
                .invalidArgument,
                "client.reads is \(known.joined(separator: " or ")), not '\(text)'")
        }
        return place
    }

    static func startS3Gateway(
        _ settings: Settings, _ runtime: Runtime
    ) async throws -> RunningRole {
        let logger = makeLogger("s3gateway", level: settings.text("log.level"))
        let telemetry = try telemetry("s3gateway", settings)
        var reactors: EventLoopReactors?
        do {
            reactors = try await EventLoopReactors.start()
        } catch {
            logger.warning(
                "requests change threads on their way to the store, as event loops got no ring",
                metadata: ["reason": "\(error)"])
        }
        let gateway = S3Gateway(
            store: try client(settings, runtime, on: reactors?.group),
            configuration: S3Configuration(
                host: settings.text("s3.host"), port: try settings.number("s3.port"),
                region: settings.text("s3.region"), baseDomains: settings.list("s3.base-domains"),
                allowsSignatureV2: try settings.flag("s3.signature-v2")),
            logger: logger, reactors: reactors, telemetry: telemetry.isEnabled ? telemetry : nil)
        let serving = Task { try await gateway.run() }
        let port = try await gateway.boundPort()
        let metrics = try await serve(telemetry, "s3", settings, logger)
        return RunningRole(name: "s3gateway", port: port, metrics: metrics) {
            await metrics?.stop()
            serving.cancel()
            await report(logger, "stopping") { try await serving.value }
        }
    }
}

/// Holds a directory for one process, so that a second one does not write into the same files.
final class DirectoryLock: Sendable {
    /// How long one that another process holds is waited for. A process that was just killed holds
    /// its locks until the kernel has ended its I/O, which takes seconds where a disk is slow.
    static let patience = ContainerStore.Limits.lockPatience

    private let descriptor: Int32

    /// Makes the directory if it is absent.
    convenience init(_ directory: String) async throws {
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        try await self.init(directory, file: "lock")
    }

    /// Locks `file` in a directory that is there.
    ///
    /// Throws `invalidArgument` where another process has it for `patience`, `io` where it cannot be
    /// opened or locked.
    init(
        _ directory: String, file: String, patience: Duration = DirectoryLock.patience
    ) async throws(StoreError) {
        let path = "\(directory)/\(file)"
        descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else {
            throw StoreError(.io, "cannot open \(path): \(String(cString: strerror(errno)))")
        }
        let deadline = ContinuousClock.now.advanced(by: patience)
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            let code = errno
            if code == EWOULDBLOCK, ContinuousClock.now < deadline,
                (try? await Task.sleep(for: .milliseconds(20))) != nil
            {
                continue
            }
            close(descriptor)
            guard code == EWOULDBLOCK else {
                throw StoreError(.io, "cannot lock \(path): \(String(cString: strerror(code)))")
            }
            throw StoreError(
                .invalidArgument, "\(directory) is in use by another process; stop that one first")
        }
    }

    func release() { flock(descriptor, LOCK_UN) }
}
