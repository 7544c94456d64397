import Logging
import Model
import RaftDriver
import Reactor
import SCMCore
import Wire

// Replicas that are missing: what is decided of them becomes commands of the log, a few at each
// tick.

extension StorageContainerManager {
    /// Has the log say which repairs have ended and which begin, and what need not be deleted any
    /// more. What cannot be logged now is decided anew at the next tick.
    func repair() async {
        guard await catchUp() else { return }
        // Those that have ended make room for those that begin.
        if let ends = memory.withState({ state, now in state.dueRepairEnds(at: now) }) {
            guard await log(repairs: ends) else { return }
        }
        let starts = decide { state, now, random in
            state.dueRepairStarts(at: now, using: &random)
        }
        if let starts { guard await log(repairs: starts) else { return } }
        let moves = decide { state, now, random in state.dueMoves(at: now, using: &random) }
        if let moves { guard await log(repairs: moves) else { return } }
        for (node, numbers) in memory.withState({ state, _ in state.takeDeparted() }) {
            confirm(numbers, by: node)
        }
    }

    /// What is decided by chance among equals.
    private func decide(
        _ body: (inout SCMState, UInt64, inout AnyGenerator) -> SCMCommand?
    ) -> SCMCommand? {
        var generator = AnyGenerator(base: random)
        defer { random = generator.base }
        return memory.withState { state, now in body(&state, now, &generator) }
    }

    /// Whether all that was logged before this member began to lead has been applied here: before
    /// that, rows may say what is no more.
    private func catchUp() async -> Bool {
        guard let term = memory.withState({ state, _ in state.termToCatchUp }) else { return true }
        do throws(StoreError) {
            try await group.readBarrier()
        } catch {
            logger.warning("repairs wait until this SCM has caught up: \(error)")
            return false
        }
        return memory.withState { state, _ in
            state.caughtUp(in: term)
            return state.termToCatchUp == nil
        }
    }

    /// False, with a word in the log, if it could not be proposed.
    private func log(repairs command: SCMCommand) async -> Bool {
        do throws(StoreError) {
            switch try await change(command) {
            case .changed: tell(command)
            case .refused(let refusal): logger.info("repairs are decided anew: \(refusal)")
            }
            return true
        } catch {
            logger.error("cannot log which replicas are rebuilt: \(error)")
            return false
        }
    }

    private func tell(_ command: SCMCommand) {
        switch command.command {
        case .startRepairs(let change):
            let kinds: [(SCMRepairReason, String)] = [
                (.rebuild, "rebuilt"), (.drain, "copied from nodes or disks that leave"),
                (.balance, "moved to emptier nodes"), (.spread, "moved to other racks"),
            ]
            for (reason, what) in kinds {
                let count = change.starts.count { $0.reason == reason }
                if count > 0 { logger.info("\(count) replicas are to be \(what)") }
            }
        case .endRepairs(let change):
            let givenUp = change.ends.count(where: \.isGivenUp)
            logger.info(
                "\(change.ends.count - givenUp) replicas have been made, \(givenUp) given up")
        case .balance: logger.notice("no datanode is fuller than others any more")
        default: return
        }
    }
}
