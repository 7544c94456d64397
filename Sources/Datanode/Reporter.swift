import ContainerStore
import Logging
import Model
import Reactor
import Wire

/// Registers with SCM, reports to it, and carries out its commands.
actor Reporter {
    enum Limits {
        /// Between attempts to reach SCM.
        static let retryDelay = Duration.milliseconds(500)
    }

    private let address: DatanodeAddress
    private let store: ContainerStore
    private let scm: SCMClient
    private let reactor: Reactor
    private let logger: Logger
    private var interval = Duration.seconds(1)
    private var reported: [ContainerID: SCMReplicaReport] = [:]
    private var done: [UInt64] = []
    private var isRegistered = false
    private var wasReachable = true

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        address: DatanodeAddress, store: ContainerStore, scm: SCMClient, reactor: Reactor,
        logger: Logger
    ) {
        self.address = address
        self.store = store
        self.scm = scm
        self.reactor = reactor
        self.logger = logger
    }

    /// Reports until the task is cancelled.
    func run() async {
        while !Task.isCancelled {
            var pause = interval
            do throws(StoreError) {
                if !isRegistered { try await register() }
                // What a command changed is reported at once, not a second later.
                if try await heartbeat() { pause = .milliseconds(20) }
                wasReachable = true
            } catch {
                if wasReachable { logger.warning("SCM: \(error)") }
                wasReachable = false
                isRegistered = false
                pause = Limits.retryDelay
            }
            do {
                try await reactor.sleep(for: pause)
            } catch {
                return
            }
        }
    }

    private func replicas() async -> [ContainerID: SCMReplicaReport] {
        var replicas: [ContainerID: SCMReplicaReport] = [:]
        for report in await store.report() { replicas[report.id] = report.message }
        return replicas
    }

    private func register() async throws(StoreError) {
        var request = SCMRegisterRequest()
        request.address = address.message
        if let cluster = store.cluster { request.cluster = cluster.message }
        request.volumes = await store.volumes().map(\.message)
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

    /// One heartbeat. True if it brought commands that were carried out.
    private func heartbeat() async throws(StoreError) -> Bool {
        let replicas = await replicas()
        var request = SCMHeartbeatRequest()
        request.id = address.id.message
        request.volumes = await store.volumes().map(\.message)
        let isRemoved = reported.keys.contains { replicas[$0] == nil }
        request.isFull = isRemoved
        request.replicas = replicas.filter { isRemoved || reported[$0.key] != $0.value }
            .map(\.value)
        request.doneCommands = done
        let response = try await scm.heartbeat(request)
        reported = replicas
        done.removeAll { request.doneCommands.contains($0) }
        for command in response.commands { await carryOut(command) }
        return !response.commands.isEmpty && isRegistered
    }

    private func carryOut(_ command: SCMDatanodeCommand) async {
        do throws(StoreError) {
            switch command.command {
            case .closeContainer(let number):
                try await store.closeContainer(ContainerID(number))
            case .deleteBlocks(let deletion):
                guard !done.contains(command.number) else { return }
                try await store.deleteBlocks(deletion.blocks.map { BlockID($0) })
                done.append(command.number)
            case .registerAgain: isRegistered = false
            case nil: break
            }
        } catch {
            logger.warning("a command of SCM failed: \(error)")
        }
    }
}

extension ContainerReport {
    var message: SCMReplicaReport {
        var message = SCMReplicaReport()
        message.container = id.rawValue
        message.replicaIndex = UInt32(replicaIndex)
        message.replication = replication.message
        switch state {
        case .open, .closing: message.state = .open
        case .closed: message.state = .closed
        case .unhealthy: message.state = .unhealthy
        }
        message.usedBytes = UInt64(usedBytes)
        message.blocks = UInt64(blockCount)
        return message
    }
}
