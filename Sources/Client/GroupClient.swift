import Model
import Reactor
import Transport
import Wire

/// Asks the members of a group about it, and has them changed.
public struct GroupClient: Sendable {
    enum Limits {
        static let statusTimeout = Duration.seconds(2)
        /// Of a change of the members: another may have to be finished before it.
        static let changeTimeout = Duration.seconds(30)
    }

    /// What a member says, or why it says nothing.
    public struct Answer: Sendable {
        public var address: String
        public var view: Result<GroupStatusResponse, StoreError>
    }

    private let addresses: [String]
    private let channel: LeaderChannel
    private let channels: ChannelPool
    private let reactor: Reactor

    /// - Parameter addresses: `HOST:PORT` of members that are known.
    /// - Throws: `invalidArgument` for an address that is none, or where there is none.
    public init(
        _ addresses: [String], channels: ChannelPool, on reactor: Reactor
    ) throws(StoreError) {
        self.addresses = addresses
        channel = try LeaderChannel(addresses, channels: channels, on: reactor)
        self.channels = channels
        self.reactor = reactor
    }

    /// The group as each of its members sees it: of those that are known, and those that they name.
    public func askAll() async -> [Answer] {
        var asked: Set<String> = []
        var answers: [Answer] = []
        var unasked = Set(addresses)
        while !unasked.isEmpty {
            asked.formUnion(unasked)
            answers += await withTaskGroup(of: Answer.self) { [unasked] group in
                for address in unasked { group.addTask { await ask(address) } }
                return await group.reduce(into: [Answer]()) { $0.append($1) }
            }
            let named = answers.compactMap { try? $0.view.get() }.flatMap(\.members)
            unasked = Set(named.map(\.address)).subtracting(asked).filter { !$0.isEmpty }
        }
        return answers.sorted { $0.address < $1.address }
    }

    private func ask(_ address: String) async -> Answer {
        do throws(StoreError) {
            return Answer(address: address, view: .success(try await status(at: address)))
        } catch {
            return Answer(address: address, view: .failure(error))
        }
    }

    /// The group as the member at `address` sees it.
    private func status(at address: String) async throws(StoreError) -> GroupStatusResponse {
        let place = try HostPort(address)
        let reply = try await channels.channel(host: place.host, port: place.port, on: reactor)
            .call(
                RaftMethod.status.rawValue, GroupStatusRequest().encoded,
                timeout: Limits.statusTimeout)
        return try GroupStatusResponse(parsing: reply.message)
    }

    /// Takes a member in at `address`, where its process waits for it.
    public func add(_ name: String, at address: String) async throws(StoreError) {
        var request = GroupAddRequest()
        request.name = name
        request.address = address
        try await change(.addMember, request.encoded)
    }

    public func remove(_ name: String) async throws(StoreError) {
        var request = GroupRemoveRequest()
        request.name = name
        try await change(.removeMember, request.encoded)
    }

    /// Returns when `name` leads.
    public func transfer(to name: String) async throws(StoreError) {
        var request = GroupTransferRequest()
        request.name = name
        try await change(.transferLeadership, request.encoded)
    }

    private func change(_ method: RaftMethod, _ message: [UInt8]) async throws(StoreError) {
        // Each says what is to be, so that it may be said again.
        _ = try await channel.call(
            method.rawValue, message, timeout: Limits.changeTimeout, repetition: .harmless)
    }
}
