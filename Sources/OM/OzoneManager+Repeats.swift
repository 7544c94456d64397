import Model
import OMCore
import RaftDriver
import Reactor
import Wire

// Changes that are asked for again, since their callers do not know what came of them.

extension OzoneManager {
    /// What was answered to the call before; else it is carried out, if the first attempt does not
    /// come first.
    ///
    /// What is looked at before a command is logged may have been changed by the first attempt, or
    /// by others since. So the answer that there is comes before any look, and a refusal that comes
    /// of one counts only once it is logged: whichever of the two is logged first, both attempts
    /// are answered with it.
    func answerAgain(
        _ method: OMMethod, _ message: [UInt8], _ context: IOContext, _ call: CallID
    ) async throws(StoreError) -> [UInt8] {
        if let answer = try await group.answer(to: call) {
            return try await self.message(of: answer, method)
        }
        do throws(StoreError) {
            return try await carryOut(method, message, context, call)
        } catch {
            guard error.isAnswer else { throw error }
            return try await self.message(of: group.settle(call, error), method)
        }
    }

    /// The message that answers a request, of what the state machine answered; throws its refusal.
    /// Groups that it names without their places get them.
    func message(of answer: OMAnswer, _ method: OMMethod) async throws(StoreError) -> [UInt8] {
        switch answer {
        case .open(var response):
            response.groups = try await placed(response.groups)
            return response.encoded
        case .reserved(var response):
            response.groups = try await placed(response.groups)
            return response.encoded
        case .group(var response):
            response.group = try await placed([response.group])[0]
            return response.encoded
        case .key(let response):
            // A commit is answered without places: whoever wrote the blocks knows where they are.
            return method == .completeUpload
                ? try await located(response).encoded : response.encoded
        case .done, .deletedKey, .upload, .refused: return try answer.encoded()
        }
    }

    /// The groups with their places; those of which none is known have empty ones.
    func placed(_ groups: [WireGroup]) async throws(StoreError) -> [WireGroup] {
        guard !groups.isEmpty else { return [] }
        let containers = Set(groups.map { ContainerID($0.block.container) })
        let places = try await places.locate(containers, refresh: false, context: .client)
        var placed = groups
        for index in placed.indices {
            let width = try ReplicationConfig(placed[index].replication).width
            var nodes = places[ContainerID(placed[index].block.container)] ?? []
            if nodes.count != width { nodes = Array(repeating: nil, count: width) }
            placed[index].nodes = nodes.map { $0?.message ?? WireAddress() }
        }
        return placed
    }
}

extension StoreError {
    /// Whether its caller is given it as the answer: not where another attempt follows, nor where
    /// nobody waits.
    fileprivate var isAnswer: Bool {
        switch code {
        case .notLeader, .connection, .cancelled: false
        default: true
        }
    }
}
