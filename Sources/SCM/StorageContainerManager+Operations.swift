import Logging
import Model
import RaftDriver
import Reactor
import SCMCore
import Wire

// Datanodes that leave service, for good or for a while.

extension StorageContainerManager {
    /// What an operator wants of datanodes. The answer says how they are then.
    func operate(_ request: SCMOperateRequest) async throws(StoreError) -> SCMStatusResponse {
        for _ in 0..<Limits.decisions {
            try lead()
            try await group.readBarrier()
            let wall = self.wall
            let command = try memory.withState { state, now throws(StoreError) in
                try state.operate(request, at: now, wall: wall)
            }
            if let command {
                guard case .changed = try await change(command) else { continue }
                tell(command.operate)
            }
            var question = SCMStatusRequest()
            question.nodes = true
            return try await status(question)
        }
        throw StoreError(.overloaded, "the datanodes change all the time: try again later")
    }

    /// Has the log say which datanodes have come to the end of leaving, or of maintenance. What cannot
    /// be logged now is decided anew at the next tick.
    func endOperations() async {
        let wall = self.wall
        let due = memory.withState { state, now in state.dueOperations(at: now, wall: wall) }
        guard let due else { return }
        do throws(StoreError) {
            switch try await change(due) {
            case .changed: tell(due.operate)
            case .refused(let refusal):
                logger.info("what is wanted of datanodes is decided anew: \(refusal)")
            }
        } catch {
            logger.error("cannot log that datanodes have left service: \(error)")
        }
    }

    /// Has replicas moved to emptier datanodes, or not any more; and how that stands.
    func balance(_ request: SCMBalanceRequest) async throws(StoreError) -> SCMBalanceResponse {
        for _ in 0..<Limits.decisions {
            try lead()
            try await group.readBarrier()
            let wall = self.wall
            let command = try memory.withState { state, _ throws(StoreError) in
                try state.balance(request, wall: wall)
            }
            if let command {
                guard case .changed = try await change(command) else { continue }
                logger.notice(
                    "balancing was \(command.balance.balance.isRunning ? "begun" : "ended")")
            }
            return memory.withState { state, now in state.balanceStatus(at: now) }
        }
        throw StoreError(.overloaded, "balancing changes all the time: try again later")
    }

    /// Milliseconds since 1970.
    private var wall: UInt64 { UInt64(max(0, options.wallClock().milliseconds)) }

    private func tell(_ change: SCMCommand.Operate) {
        for each in change.changes {
            let id = Identity128(each.operation.node)
            let name = memory.withState { state, _ in state.nodes[id]?.address.description }
            logger.notice("datanode \(name ?? "\(id)") is \(each.operation.state.text)")
        }
    }
}
