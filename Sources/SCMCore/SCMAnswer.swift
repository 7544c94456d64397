import Model
import Wire

/// What a command of SCM's log did: the only thing that memory learns of it.
///
/// `SCMStateMachine.apply` alone interprets commands. What it leaves in the tables it answers with,
/// row by row, and every member's memory takes these rows, as it takes all of them when it is made
/// anew. So a memory that followed the log and one that was read from the tables are the same.
public enum SCMAnswer: Hashable, Sendable {
    /// The rows that were written, as they are now; none where everything was so already.
    case changed([SCMRow])
    /// Nothing was changed: what the command was decided from does not hold.
    case refused(SCMRefusal)

    /// The rows that were written.
    public var rows: [SCMRow] {
        switch self {
        case .changed(let rows): rows
        case .refused: []
        }
    }
}

/// A row of SCM's tables, as it is now.
public enum SCMRow: Hashable, Sendable {
    case cluster(ClusterID)
    /// Local IDs below this may have been given out.
    case localIDs(until: UInt64)
    case container(SCMContainerRecord)
    /// Nil: no datanode is waited for any more, and there is none.
    case deletion(number: UInt64, SCMDeletionRecord?)
    case node(WireAddress)
    /// Nil: the datanode is in service, and there is none.
    case operation(DatanodeID, SCMNodeOperation?)
    case balance(SCMBalance)
}

/// Why a command changed nothing. Its proposer decides anew, from what is there.
public enum SCMRefusal: Hashable, Sendable, CustomStringConvertible {
    /// The cluster has a name.
    case isNamed
    case containerExists(ContainerID)
    case noSuchContainer(ContainerID)
    case containerIs(ContainerID, SCMContainerState)
    /// A replica was reported of an index that was to be noted as empty.
    case wasWitnessed(ContainerID)
    /// Others have been reserved since.
    case localIDsAreReserved(until: UInt64)
    /// The place of a replica that was to be rebuilt is not whose it is said to be.
    case placeIsAnothers(ContainerID, index: Int)
    case isBeingRebuilt(ContainerID, index: Int)
    /// The datanode that was to get a replica has one of the container's, or is getting one.
    case hasReplica(ContainerID, DatanodeID)
    /// No replica is being rebuilt by the order that was to be ended.
    case noSuchRepair(ContainerID, index: Int)
    case noSuchNode(DatanodeID)
    /// A datanode is not in the operational state that it is said to be in.
    case nodeIs(DatanodeID, SCMOperationalState)
    /// Balancing was begun anew meanwhile.
    case isBalancingAnew
    /// One command begins no more repairs than can be numbered.
    case tooManyRepairs

    public var description: String {
        switch self {
        case .isNamed: "the cluster has its identity"
        case .containerExists(let id): "there is a container \(id)"
        case .noSuchContainer(let id): "there is no container \(id)"
        case .containerIs(let id, let state): "container \(id) is \(state)"
        case .wasWitnessed(let id): "a replica of container \(id) that is to be empty was reported"
        case .localIDsAreReserved(let until): "local IDs are reserved up to \(until)"
        case .placeIsAnothers(let id, let index):
            "replica \(index) of container \(id) has another place"
        case .isBeingRebuilt(let id, let index):
            "replica \(index) of container \(id) is being rebuilt"
        case .hasReplica(let id, let node):
            "datanode \(node) has or gets another replica of container \(id)"
        case .noSuchRepair(let id, let index):
            "replica \(index) of container \(id) is not being rebuilt by this order"
        case .noSuchNode(let id): "there is no datanode \(id)"
        case .nodeIs(let id, let state): "datanode \(id) is \(state.text)"
        case .isBalancingAnew: "balancing was begun anew"
        case .tooManyRepairs: "a command begins \(SCMNumbers.perCommand) repairs at most"
        }
    }
}

extension SCMCommand {
    /// What commands are made of by this program; see `Command.version` in scm.proto.
    public static let currentVersion: UInt32 = 1

    /// A command that is refused where what it was decided from no longer holds.
    public init(_ command: OneOf_Command) {
        self.init()
        self.command = command
        version = Self.currentVersion
    }

    /// Whether it bears what it was decided from.
    var isConditional: Bool { version >= 1 }
}
