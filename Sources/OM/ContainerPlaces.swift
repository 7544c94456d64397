import Model
import Reactor
import Synchronization
import Telemetry

/// Remembers on which nodes the replicas of containers are, so that looking a key up asks SCM
/// only about containers that nobody asked for lately.
///
/// What it remembers may be out of date: a reader that finds a place stale asks with refresh.
/// Thread-safe.
final class ContainerPlaces: Sendable {
    enum Limits {
        /// Containers remembered.
        static let containers = 16_384
        /// How long they are.
        static let age = Duration.seconds(60)
        /// Containers in one question to SCM.
        static let batch = 1024
    }

    private struct Place {
        var nodes: [DatanodeAddress?]
        var learned: MonotonicTime
    }

    private let blocks: any BlockAllocator  // called for many containers at once
    private let reactor: Reactor
    private let places = Mutex(
        BoundedCache<ContainerID, Place>(limit: Limits.containers))

    init(blocks: any BlockAllocator, reactor: Reactor) {
        self.blocks = blocks
        self.reactor = reactor
    }

    /// Learns the places of groups that SCM has just handed out.
    func learn(_ groups: [BlockGroup]) {
        let now = reactor.now()
        places.withLock { places in
            for group in groups {
                places.insert(
                    Place(nodes: group.nodes, learned: now), for: group.blockID.containerID)
            }
        }
    }

    /// The nodes of `containers`, asking SCM about those that are not known.
    /// - Parameter context: of the request that it is for.
    func locate(
        _ containers: Set<ContainerID>, refresh: Bool, context: IOContext = .client
    ) async throws(StoreError) -> [ContainerID: [DatanodeAddress?]] {
        let now = reactor.now()
        var known: [ContainerID: [DatanodeAddress?]] = [:]
        if !refresh {
            known = places.withLock { places in
                var known: [ContainerID: [DatanodeAddress?]] = [:]
                for container in containers {
                    guard let place = places.value(container),
                        place.learned.duration(to: now) <= Limits.age
                    else { continue }
                    known[container] = place.nodes
                }
                return known
            }
        }
        var unknown = containers.filter { known[$0] == nil }.sorted()[...]
        while !unknown.isEmpty {
            let asked = Array(unknown.prefix(Limits.batch))
            let found = try await blocks.locate(asked, context)
            unknown = unknown.dropFirst(Limits.batch)
            let learned = reactor.now()
            places.withLock { places in
                for (container, nodes) in found {
                    places.insert(Place(nodes: nodes, learned: learned), for: container)
                }
            }
            known.merge(found) { _, new in new }
        }
        return known
    }
}
