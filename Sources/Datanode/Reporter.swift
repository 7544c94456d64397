import ContainerStore
import Logging
import Model
import Reactor
import Wire

/// Registers with SCM and reports to it.
///
/// A late heartbeat makes a datanode that serves its clients look dead, so the loop waits for
/// nothing but SCM's answer: what the disks say of their space is looked up by a loop of its own
/// (the last answer is reported), and commands are handed to a `CommandQueue`.
actor Reporter {
    enum Limits {
        /// Between attempts to reach SCM.
        static let retryDelay = Duration.milliseconds(500)
        /// Between heartbeats that have something to tell that SCM waits for.
        static let leastPause = Duration.milliseconds(100)
        /// Between looks at the space of the disks.
        static let volumesInterval = Duration.seconds(1)
    }

    private let address: DatanodeAddress
    private let store: ContainerStore
    private let storeNumber: UInt64
    private let scm: SCMClient
    private let reactor: Reactor
    private let logger: Logger
    private let commands: CommandQueue
    private var interval = Duration.seconds(1)
    private var volumes: [VolumeReport] = []
    private var reported: [ContainerID: SCMReplicaReport] = [:]
    private var isRegistered = false
    private var wasReachable = true

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        address: DatanodeAddress, store: ContainerStore, storeNumber: UInt64, scm: SCMClient,
        reactor: Reactor, logger: Logger
    ) {
        self.address = address
        self.store = store
        self.storeNumber = storeNumber
        self.scm = scm
        self.reactor = reactor
        self.logger = logger
        commands = CommandQueue(store: store, reactor: reactor, logger: logger)
    }

    /// Reports until the task is cancelled; returns when no command is being carried out.
    func run() async {
        volumes = await store.volumes()
        let looking = Task(executorPreference: reactor) { await self.lookAtVolumes() }
        await report()
        looking.cancel()
        await looking.value
        await commands.stop()
    }

    private func report() async {
        while !Task.isCancelled {
            var pause = interval
            do throws(StoreError) {
                if !isRegistered { try await register() }
                try await heartbeat()
                wasReachable = true
            } catch {
                if wasReachable { logger.warning("SCM: \(error)") }
                wasReachable = false
                isRegistered = false
                pause = Limits.retryDelay
            }
            do {
                try await sleep(for: pause)
            } catch {
                return
            }
        }
    }

    /// Sleeps, but not until the end when a command has been carried out that SCM waits for.
    private func sleep(for pause: Duration) async throws(CancellationError) {
        let end = reactor.now().advanced(by: pause)
        repeat {
            let rest = reactor.now().duration(to: end)
            try await reactor.sleep(for: min(max(rest, .zero), Limits.leastPause))
        } while reactor.now() < end && !(isRegistered && commands.isAwaited)
    }

    private func lookAtVolumes() async {
        var full: Set<String> = []
        while !Task.isCancelled {
            do {
                try await reactor.sleep(for: Limits.volumesInterval)
            } catch {
                return
            }
            volumes = await store.volumes()
            for volume in volumes where volume.isFull != full.contains(volume.path) {
                let free = "\(volume.available >> 20) of \(volume.capacity >> 20) MiB"
                if volume.isFull {
                    full.insert(volume.path)
                    logger.warning("volume \(volume.path) is full: \(free) may be written")
                } else {
                    full.remove(volume.path)
                    logger.info("volume \(volume.path) has room again: \(free) may be written")
                }
            }
        }
    }

    /// The replicas, with those that are lost, and the containers of which there is none and none
    /// is made any more.
    private func replicas() async -> [ContainerID: SCMReplicaReport] {
        var replicas: [ContainerID: SCMReplicaReport] = [:]
        for id in store.retiredContainers {
            var message = SCMReplicaReport()
            message.container = id.rawValue
            message.state = .none
            replicas[id] = message
        }
        for report in await store.report() { replicas[report.id] = report.message }
        return replicas
    }

    private func register() async throws(StoreError) {
        var request = SCMRegisterRequest()
        request.address = address.message
        if let cluster = store.cluster { request.cluster = cluster.message }
        request.volumes = volumes.map(\.message)
        request.store = storeNumber
        // Before the replicas: of an epoch that begins now nothing would be known.
        request.epoch = store.epoch
        let replicas = await replicas()
        request.replicas = Array(replicas.values)
        let response = try await scm.register(request)
        if store.cluster == nil {
            try await store.adopt(cluster: ClusterID(response.cluster))
        }
        interval = .milliseconds(Int(max(response.heartbeatMilliseconds, 50)))
        reported = replicas
        isRegistered = true
        logger.info("registered as \(address)")
    }

    private func heartbeat() async throws(StoreError) {
        var request = SCMHeartbeatRequest()
        request.epoch = store.epoch
        request.store = storeNumber
        let replicas = await replicas()
        request.id = address.id.message
        request.volumes = volumes.map(\.message)
        let isRemoved = reported.keys.contains { replicas[$0] == nil }
        request.isFull = isRemoved
        request.replicas = replicas.filter { isRemoved || reported[$0.key] != $0.value }
            .map(\.value)
        let outcome = commands.takeOutcome()
        request.doneCommands = outcome.done
        request.failedCommands = outcome.failed
        request.absentCommands = outcome.absent
        request.unreclaimedBlocks = UInt64(store.unreclaimedBlocks)
        let response: SCMHeartbeatResponse
        do throws(StoreError) {
            response = try await scm.heartbeat(request)
        } catch {
            // SCM may have heard it or not: it is told again.
            commands.putBack(outcome)
            throw error
        }
        reported = replicas
        for command in response.commands {
            if case .registerAgain = command.command {
                isRegistered = false
            } else {
                commands.add(command)
            }
        }
    }
}

extension ContainerReport {
    var message: SCMReplicaReport {
        var message = SCMReplicaReport()
        message.container = id.rawValue
        message.replicaIndex = UInt32(replicaIndex)
        if let replication { message.replication = replication.message }
        switch state {
        case .open: message.state = .open
        case .closing: message.state = .closing
        case .closed: message.state = .closed
        case .unhealthy: message.state = .unhealthy
        case .lost: message.state = .lost
        }
        message.usedBytes = UInt64(usedBytes)
        message.blocks = UInt64(blockCount)
        return message
    }
}
