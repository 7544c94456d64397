import Model
import Wire

extension SCMState {
    /// What a datanode says of a replica that it has: 16 bytes, for SCM knows tens of millions.
    public struct Replica: Hashable, Sendable {
        public var usedBytes: UInt64
        private var blockCount: UInt32
        private var index: UInt16
        private var stateNumber: UInt8
        /// Its disk is to be taken out: it is to be elsewhere.
        public var isLeaving: Bool

        init(_ report: SCMReplicaReport) {
            usedBytes = report.usedBytes
            blockCount = UInt32(clamping: report.blocks)
            index = UInt16(clamping: report.replicaIndex)
            stateNumber = UInt8(clamping: report.state.rawValue)
            isLeaving = report.isLeaving
        }

        public var blocks: UInt64 { UInt64(blockCount) }
        /// From 1; 0 where it is not known.
        public var replicaIndex: UInt32 { UInt32(index) }
        public var state: SCMReplicaState {
            SCMReplicaState(rawValue: Int(stateNumber)) ?? .UNRECOGNIZED(Int(stateNumber))
        }
    }

    /// What a datanode says of a replica that it is rebuilding.
    struct Rebuilding: Hashable, Sendable {
        var usedBytes: UInt64
        var blocks: UInt64
        var replicaIndex: UInt32
        /// The order that it is rebuilt by.
        var token: UInt64

        init(_ report: SCMReplicaReport) {
            usedBytes = report.usedBytes
            blocks = report.blocks
            replicaIndex = report.replicaIndex
            token = report.token
        }
    }
}
