import ContainerStore
import Logging
import Model
import Reactor
import Synchronization
import Wire

/// Registers with one SCM and reports to it.
///
/// A late heartbeat makes a datanode that serves its clients look dead, so the loop waits for
/// nothing but SCM's answer: what the disks say of their space is looked up by a loop of its own
/// (the last answer is reported), and commands are handed to a `CommandQueue`. What was reported is
/// remembered for this SCM alone; what was carried out is told to the one that leads.
actor Reporter {
    enum Limits {
        /// Between heartbeats that have something to tell that SCM waits for.
        static let leastPause = Duration.milliseconds(100)
    }

    private let node: ReportedNode
    private let scm: SCMClient
    /// Of the SCM, `HOST:PORT`.
    private let address: String
    private let reactor: Reactor
    private let logger: Logger
    private var interval = Duration.seconds(1)
    private var reported: [ContainerID: SCMReplicaReport] = [:]
    private var isRegistered = false
    private var wasReachable = true
    private var retry = SCMRetry()

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        _ node: ReportedNode, to scm: SCMClient, at address: String, reactor: Reactor,
        logger: Logger
    ) {
        self.node = node
        self.scm = scm
        self.address = address
        self.reactor = reactor
        self.logger = logger
    }

    /// Reports until the task is cancelled.
    func run() async {
        while !Task.isCancelled {
            do throws(StoreError) {
                if !isRegistered { try await register() }
                try await heartbeat()
                wasReachable = true
                retry.succeed()
            } catch {
                // An end that was asked for is no news.
                if wasReachable, !Task.isCancelled { logger.warning("SCM \(address): \(error)") }
                wasReachable = false
                isRegistered = false
                node.group.withLock { $0.miss(address) }
            }
            do {
                if wasReachable { try await sleep(for: interval) } else { try await leaveAlone() }
            } catch {
                return
            }
        }
    }

    /// Leaves the SCM alone for a while after a failure; not for longer than usual once none that
    /// leads is known.
    private func leaveAlone() async throws(CancellationError) {
        let isLed = { [node, address] in node.group.withLock { $0.isLed(byAnotherThan: address) } }
        let end = reactor.now().advanced(by: retry.pause(isLedByAnother: isLed()))
        repeat {
            let rest = max(reactor.now().duration(to: end), .zero)
            try await reactor.sleep(for: min(rest, SCMRetry.Limits.shortest))
        } while reactor.now() < end && isLed()
    }

    /// Sleeps, but not until the end when a command has been carried out that this SCM waits for.
    /// Looks for that only while there are commands: who has none is not woken in between.
    private func sleep(for pause: Duration) async throws(CancellationError) {
        let end = reactor.now().advanced(by: pause)
        repeat {
            let rest = max(reactor.now().duration(to: end), .zero)
            let looks = node.commands.isBusy && node.isLed(by: address)
            try await reactor.sleep(for: looks ? min(rest, Limits.leastPause) : rest)
        } while reactor.now() < end
            && !(isRegistered && node.commands.isAwaited && node.isLed(by: address))
    }

    private func register() async throws(StoreError) {
        let store = node.store
        var request = SCMRegisterRequest()
        request.address = node.address.message
        if let cluster = store.cluster { request.cluster = cluster.message }
        request.volumes = node.volumeMessages
        request.store = node.storeNumber
        let told = await node.replicas(isNew: false)
        request.epoch = told.epoch
        let replicas = told.reports
        request.replicas = Array(replicas.values)
        let response = try await scm.register(request)
        try await node.adopt(ClusterID(response.cluster))
        interval = .milliseconds(Int(max(response.heartbeatMilliseconds, 50)))
        reported = replicas
        isRegistered = true
        _ = node.group.withLock { $0.take(response.view, from: address, at: reactor.now()) }
        logger.info("registered as \(node.address) with SCM \(address)")
    }

    private func heartbeat() async throws(StoreError) {
        let store = node.store
        var request = SCMHeartbeatRequest()
        request.store = node.storeNumber
        // What has changed is asked before what there is: a change that comes in between is told
        // again. Another than who leads would not have it logged.
        let outcome =
            node.isLed(by: address) ? node.commands.takeOutcome() : CommandQueue.Outcome()
        let told = await node.replicas(isNew: outcome.hasChange)
        request.epoch = told.epoch
        let replicas = told.reports
        request.id = node.address.id.message
        request.volumes = node.volumeMessages
        let isRemoved = reported.keys.contains { replicas[$0] == nil }
        request.isFull = isRemoved
        request.replicas = replicas.filter { isRemoved || reported[$0.key] != $0.value }
            .map(\.value)
        request.doneCommands = outcome.done
        request.failedCommands = outcome.failed
        request.absentCommands = outcome.absent
        if node.isLed(by: address) {
            request.heals = outcome.heals.map(\.message) + node.commands.healsUnderWay
        }
        request.unreclaimedBlocks = UInt64(store.unreclaimedBlocks)
        let response: SCMHeartbeatResponse
        do throws(StoreError) {
            response = try await scm.heartbeat(request)
        } catch {
            // SCM may have heard it or not: it is told again, or whoever leads by then.
            node.commands.putBack(outcome)
            throw error
        }
        reported = replicas
        let (leads, term) = node.group.withLock { group in
            (group.take(response.view, from: address, at: reactor.now()), group.term)
        }
        if leads {
            node.store.avoid(Set(response.slowVolumes))
        } else {
            node.commands.putBack(outcome)
        }
        for command in response.commands {
            if case .registerAgain = command.command {
                isRegistered = false
            } else if leads {
                node.commands.add(command, of: term)
            } else {
                logger.warning(
                    "SCM \(address) gave an order of term \(response.term); the leader's is \(term)"
                )
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
        case .recovering: message.state = .recovering
        }
        message.token = recovery
        message.isLeaving = isLeaving
        message.usedBytes = UInt64(usedBytes)
        message.blocks = UInt64(blockCount)
        return message
    }
}
