import Model
import Wire

extension SCMState {
    /// What is wanted of a datanode that is not in service.
    public struct Operation: Hashable, Sendable {
        public var state: SCMOperationalState
        /// Of maintenance: when the node is in service again by itself, in milliseconds since 1970;
        /// 0: when it is said.
        public var endsAt: UInt64
        /// When it was asked for, in milliseconds since 1970.
        public var since: UInt64

        /// Whether what the node has is to be elsewhere.
        var leaves: Bool { state == .decommissioning || state == .decommissioned }
        /// Whether the node may be away for some time.
        var isMaintenance: Bool { state == .enteringMaintenance || state == .inMaintenance }
    }

    /// What is wanted of a datanode; nil: that it serves.
    func operation(of id: DatanodeID?) -> Operation? { id.flatMap { operations[$0] } }
}

extension SCMState.Operation {
    init(_ message: SCMNodeOperation) {
        self.init(
            state: message.state, endsAt: message.endsAtMilliseconds,
            since: message.sinceMilliseconds)
    }

    func message(of id: DatanodeID) -> SCMNodeOperation {
        var message = SCMNodeOperation()
        message.node = id.message
        message.state = state
        message.endsAtMilliseconds = endsAt
        message.sinceMilliseconds = since
        return message
    }
}

extension SCMNodeOperation {
    /// Throws `versionMismatch` for a state that this program does not know.
    func checkedState() throws(StoreError) -> SCMOperationalState {
        if case .UNRECOGNIZED(let number) = state {
            throw StoreError(
                .versionMismatch,
                "datanode \(Identity128(node)) is in operational state \(number), which this "
                    + "program does not know")
        }
        return state
    }
}

extension SCMOperationalState {
    /// As it is shown: `entering maintenance`.
    public var text: String {
        switch self {
        case .inService: "in service"
        case .decommissioning: "decommissioning"
        case .decommissioned: "decommissioned"
        case .enteringMaintenance: "entering maintenance"
        case .inMaintenance: "in maintenance"
        case .UNRECOGNIZED(let number): "state \(number)"
        }
    }
}
