import Foundation
import Logging
import Model
import RaftDriver
import Reactor
import Transport

/// Where a role that is a member of a group is reached: it answers, if only that it is being
/// started, before the role is there.
struct GroupPort {
    let place: GroupPlace
    let service: GroupService
    let server: RPCServer
    private let directory: String
    private let reactor: Reactor
    private let logger: Logger

    /// Begins to serve.
    /// - Parameter role: `om` or `scm`: the group of its settings.
    init(
        _ settings: Settings, _ role: String, _ runtime: Runtime, on reactor: Reactor,
        _ serving: [Reactor], _ logger: Logger
    ) throws {
        self.reactor = reactor
        self.logger = logger
        directory = try settings.required("\(role).directory")
        place = try settings.place(role)
        service = GroupService(place, directory: directory, on: reactor)
        let host = settings.text("\(role).host")
        server = try RPCServer(
            host: host, port: settings.number("\(role).port"), name: place.name,
            reactors: serving, handler: service, notice: { logger.warning("\($0)") })
        server.start()
        runtime.channels.register(service, host: host, port: server.port)
        if let address = try? HostPort(place.address) {
            runtime.channels.register(service, host: address.host, port: address.port)
        }
    }

    /// Which member of the group the directory is of. Where it is empty, waits until another member
    /// invites this one: a group begins with `--init`, and nothing makes one by itself.
    func identity() async throws -> MemberIdentity {
        if let known = try await MemberIdentity.load(from: directory, for: place, on: reactor) {
            return known
        }
        logger.notice(
            """
            \(directory) is empty: \(place.name) waits to be added to its group, with \
            apus admin \(place.role) add \(place.name) \(place.address). \
            (To begin a new group stop it, and run apus \(place.role) --init on each of its first \
            members.)
            """)
        // Nobody need wait for more: it is up to an operator now.
        ServiceManager().ready("\(place.name) waits to be added to its group")
        return await service.invitation()
    }

    /// Makes the directory of a role a member's of a new group, of all that the settings name.
    static func initialize(
        _ settings: Settings, _ role: String, on reactor: Reactor
    ) async throws -> MemberIdentity {
        let directory = try settings.required("\(role).directory")
        let place = try settings.place(role)
        let lock = try await DirectoryLock(directory)
        defer { lock.release() }
        if let known = try await MemberIdentity.load(from: directory, for: place, on: reactor) {
            throw StoreError(
                .invalidArgument,
                "\(directory) has the files of \(known.name) already: a group begins with empty "
                    + "directories. To start the member leave --init away")
        }
        let identity = try MemberIdentity.founder(place)
        try await identity.store(in: directory, on: reactor)
        return identity
    }
}

extension Settings {
    /// Which member of the group of `role` this is.
    func place(_ role: String) throws -> GroupPlace {
        let own = HostPort(host: text("\(role).host"), port: try number("\(role).port"))
        return try GroupPlace(
            role: role, name: text("\(role).id"), address: own.description,
            cluster: text("cluster.id"), addresses: list("\(role).addresses"))
    }

    /// `HOST:PORT` of the members of the group of `role`.
    func addresses(of role: String) throws -> [String] {
        let addresses = try members(of: role).map(\.place.description)
        guard addresses.isEmpty else { return addresses }
        return [HostPort(host: text("\(role).host"), port: try number("\(role).port")).description]
    }
}
