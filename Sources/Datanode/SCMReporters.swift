import ContainerStore
import Logging
import Model
import Reactor
import Synchronization
import Wire

/// Reports to all SCMs, each in a loop of its own, so that one that hangs delays none of the
/// others; and to those that are added, once the one that leads tells of them.
actor SCMReporters {
    enum Limits {
        /// Between looks at who the SCMs are.
        static let addressesInterval = Duration.milliseconds(500)
        /// Between looks at the space of the disks.
        static let volumesInterval = Duration.seconds(1)
    }

    private let node: ReportedNode
    private let clients: SCMClients
    private let reactor: Reactor
    private let logger: Logger
    private var reports: [String: Task<Void, Never>] = [:]
    /// Loops that are ending.
    private var ending: [Task<Void, Never>] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor { reactor.asUnownedSerialExecutor() }

    init(
        address: DatanodeAddress, store: ContainerStore, storeNumber: UInt64, scms: SCMClients,
        repairs: ReconstructionQueue, reactor: Reactor, logger: Logger
    ) {
        node = ReportedNode(
            address: address, store: store, storeNumber: storeNumber, scms: scms.addresses,
            repairs: repairs, reactor: reactor, logger: logger)
        clients = scms
        self.reactor = reactor
        self.logger = logger
    }

    /// Reports until the task is cancelled; returns when no command is being carried out.
    func run() async {
        await node.lookAtVolumes()
        // A disk that hangs keeps nobody from hearing of new SCMs.
        let looking = Task(executorPreference: reactor) { await self.lookAtVolumes() }
        while !Task.isCancelled {
            followAddresses()
            do {
                try await reactor.sleep(for: Limits.addressesInterval)
            } catch {
                break
            }
        }
        looking.cancel()
        for report in reports.values { report.cancel() }
        for report in Array(reports.values) + ending { await report.value }
        await looking.value
        await node.commands.stop()
    }

    private func lookAtVolumes() async {
        while !Task.isCancelled {
            do {
                try await reactor.sleep(for: Limits.volumesInterval)
            } catch {
                return
            }
            await node.lookAtVolumes()
        }
    }

    /// Begins to report to SCMs that are new, and ends with those that are none any more.
    private func followAddresses() {
        let addresses = node.group.withLock { $0.addresses }
        for (address, report) in reports where !addresses.contains(address) {
            logger.info("no longer reporting to SCM \(address)")
            report.cancel()
            reports[address] = nil
            ending.append(report)
        }
        for address in addresses where reports[address] == nil {
            do throws(StoreError) {
                let reporter = Reporter(
                    node, to: try clients.connect(address), at: address, reactor: reactor,
                    logger: logger)
                reports[address] = Task(executorPreference: reactor) { await reporter.run() }
            } catch {
                logger.error("cannot report to SCM \(address): \(error)")
                // Told once; addresses are checked before they are taken.
                reports[address] = Task {}
            }
        }
    }
}
