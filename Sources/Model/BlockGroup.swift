/// Where a datanode is reached, and where it stands.
public struct DatanodeAddress: Hashable, Sendable, CustomStringConvertible {
    public var id: DatanodeID
    public var host: String
    public var port: Int
    /// Network location as in `/dc1/rack7`; `/default-rack` when none is configured.
    public var rack: String

    public init(id: DatanodeID, host: String, port: Int, rack: String = "/default-rack") {
        self.id = id
        self.host = host
        self.port = port
        self.rack = rack
    }

    public var description: String { "\(id) (\(host):\(port))" }
}

/// A block group: the unit in which a key's bytes are laid on datanodes.
///
/// Replica index i (1…d data, d+1…d+p parity) is stored on `nodes[i - 1]`; `nil` where the index
/// was never placed (a group allocated while datanodes were missing) or its place is not known.
public struct BlockGroup: Hashable, Sendable {
    public var blockID: BlockID
    public var replication: ReplicationConfig
    /// User bytes the group holds. 0 while it is being written.
    public var length: Int
    public var nodes: [DatanodeAddress?]
    /// Which of its bytes the key that it was looked up for consists of; nil: all of them. Several
    /// keys may share a group.
    public var range: Range<Int>?
    /// By place: the permission to make the replica, which names the epoch of its datanode; 0
    /// where there is one already. Empty where none is given: of groups that are read.
    public var permissions: [UInt64] = []
    /// Proves to datanodes that the block may be written or read; passed on as it is.
    public var token: [UInt8] = []

    /// How many bytes of the key lie in it.
    public var keyLength: Int { range?.count ?? length }

    public init(
        blockID: BlockID, replication: ReplicationConfig, length: Int, nodes: [DatanodeAddress?]
    ) {
        precondition(nodes.count == replication.width, "a block group has one place per index")
        self.blockID = blockID
        self.replication = replication
        self.length = length
        self.nodes = nodes
    }

    /// The permission to make the replica at `place` (from 0); 0: none.
    public func permission(at place: Int) -> UInt64 {
        place < permissions.count ? permissions[place] : 0
    }

    /// Whether an index was placed nowhere.
    public var isDegraded: Bool { nodes.contains { $0 == nil } }
}
