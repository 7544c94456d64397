import Model
import Reactor
import Transport
import Wire

/// The OMs, over channels of the native RPC, one for each reactor: the one that leads, or for
/// questions those whose turn it is.
struct OMChannel: OMCaller {
    enum Limits {
        static let timeout = Duration.seconds(30)
    }
    let reactors: ReactorGroup
    /// In the order of the reactors.
    let channels: [LeaderChannel]
    /// Who answers what any OM can answer. Either way it is linearizable.
    let reads: LeaderChannel.ReadPlace

    var channel: LeaderChannel { channels[reactors.hereIndex()] }
    var address: String { channels[0].address }

    func call(_ method: OMMethod, _ message: [UInt8]) async throws(StoreError) -> [UInt8] {
        try await channel.call(
            method.rawValue, message, timeout: Limits.timeout,
            repetition: method.isChange ? .identified : .harmless,
            at: method.isAnsweredByAny ? reads : .leader
        ).message
    }
}
