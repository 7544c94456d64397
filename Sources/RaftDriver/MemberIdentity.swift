import Bytes
import Checksum
import Model
import Raft
import RaftLog
import Reactor
import Wire

/// Which member of which group a role is to be, as its settings say.
public struct GroupPlace: Hashable, Sendable {
    /// Of the group: `om`, `scm`.
    public var role: String
    /// What people call the member: its role and a number, as `om1`.
    public var name: String
    /// `HOST:PORT` where it is reached.
    public var address: String
    /// Names the cluster; empty where none is given.
    public var cluster: String
    /// `HOST:PORT` of the members that are known, by name.
    public var addresses: [String: String]

    /// - Parameter addresses: `om1=HOST:PORT` each; none for a group of one.
    /// - Throws: `invalidArgument` with what would be right.
    public init(
        role: String, name: String, address: String, cluster: String, addresses: [String]
    ) throws(StoreError) {
        self.role = role
        self.name = name
        self.cluster = cluster
        var known: [String: String] = [:]
        for entry in addresses {
            let (name, address) = try Self.parts(of: entry, role)
            guard known.updateValue(address, forKey: name) == nil else {
                throw StoreError(.invalidArgument, "\(role).addresses names \(name) twice")
            }
        }
        guard Set(known.values).count == known.count else {
            throw StoreError(.invalidArgument, "\(role).addresses has one address twice")
        }
        _ = try Self.number(of: name, role)
        if known.isEmpty { known[name] = address }
        self.addresses = known
        self.address = known[name] ?? address
    }

    /// Name and address of an entry `om1=HOST:PORT`.
    public static func parts(
        of entry: String, _ role: String
    ) throws(StoreError) -> (name: String, address: String) {
        guard let equals = entry.firstIndex(of: "=") else {
            throw StoreError(
                .invalidArgument,
                "\(role).addresses takes \(role)1=HOST:PORT,\(role)2=…, not '\(entry)'")
        }
        let name = String(entry[..<equals])
        _ = try number(of: name, role)
        do throws(StoreError) {
            return (name, try HostPort(String(entry[entry.index(after: equals)...])).description)
        } catch {
            throw StoreError(error.code, "\(role).addresses: \(error.message)")
        }
    }

    /// The number in a member's name.
    static func number(of name: String, _ role: String) throws(StoreError) -> UInt64 {
        let digits = name.dropFirst(role.count)
        guard name.hasPrefix(role), digits.allSatisfy({ $0.isASCII && $0.isNumber }),
            digits.first != "0", let number = UInt32(digits)
        else {
            throw StoreError(
                .invalidArgument,
                "'\(name)' names no member: \(role) and a number does, as \(role)1")
        }
        return UInt64(number)
    }

    /// The name of the group in its log and in messages. All first members derive the same from
    /// the cluster's name; without one it is that of a cluster that has none.
    var group: GroupID {
        guard !cluster.isEmpty else { return GroupID(high: 0, low: 1) }
        return GroupID(
            high: Self.hash(cluster, from: 0xCBF2_9CE4_8422_2325),
            low: Self.hash("\(role)/\(cluster)", from: 0x8422_2325_CBF2_9CE4))
    }

    /// FNV-1a of 64 bits, from a beginning of its own.
    private static func hash(_ text: String, from start: UInt64) -> UInt64 {
        text.utf8.reduce(start) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01B3 }
    }
}

/// Whose files a directory has: of which member, of which group, of which cluster. A directory of
/// another is refused, and one that lost its log never votes as if it remembered.
public struct MemberIdentity: Hashable, Sendable {
    public enum Limits {
        /// Bytes of the file.
        public static let fileBytes = 64 << 10
        /// Members that join draw numbers from here on; first ones have that of their name.
        static let firstDrawn: UInt64 = 1 << 32
    }

    static let fileName = "member.id"
    static let magic = Array("APUSMEM1".utf8)

    public var cluster: String
    public var role: String
    public var group: GroupID
    public var name: String
    public var peer: PeerID
    /// The voters that the group began with, before the first entry of its log, which a member
    /// needs to know that reads the log from there. One that joined later is not among them.
    public var founders: [PeerID]
    /// Whether the log was made.
    public var isBegun: Bool
    /// Where members were when it was written.
    public var members: [KnownMember]
    /// The groups in whose place this one was made, when their majority was lost for good.
    public var formerGroups: [GroupID] = []
    /// Such a group is being made here, of this name and with this number for its only member.
    var next: (group: GroupID, peer: PeerID)? {
        get { nextGroup.flatMap { group in nextPeer.map { (group, $0) } } }
        set {
            nextGroup = newValue?.group
            nextPeer = newValue?.peer
        }
    }
    private var nextGroup: GroupID?
    private var nextPeer: PeerID?
    /// It is taken from what else is in the directory, of before there were identities; to be
    /// written once the log agrees.
    var isAssumed = false

    // MARK: Made

    /// Of a first member, all of whose group are in the settings.
    public static func founder(_ place: GroupPlace) throws(StoreError) -> MemberIdentity {
        guard place.addresses[place.name] != nil else {
            throw StoreError(
                .invalidArgument,
                "\(place.name) is not among \(place.role).addresses: "
                    + place.addresses.keys.sorted().joined(separator: ", "))
        }
        var members: [KnownMember] = []
        for (name, address) in place.addresses.sorted(by: { $0.key < $1.key }) {
            members.append(
                KnownMember(
                    peer: PeerID(try GroupPlace.number(of: name, place.role)), name: name,
                    address: address, part: .voter))
        }
        return MemberIdentity(
            cluster: place.cluster, role: place.role, group: place.group, name: place.name,
            peer: PeerID(try GroupPlace.number(of: place.name, place.role)),
            founders: members.map(\.peer).sorted(), isBegun: false, members: members)
    }

    /// Of the only member of a group from before directories had identities.
    static func old(_ place: GroupPlace) -> MemberIdentity {
        var identity = MemberIdentity(
            cluster: place.cluster, role: place.role, group: GroupID(high: 0, low: 1),
            name: place.name, peer: 1, founders: [1], isBegun: true,
            members: [
                KnownMember(peer: 1, name: place.name, address: place.address, part: .voter)
            ])
        identity.isAssumed = true
        return identity
    }

    /// Of a member that is invited into a group that is there.
    static func invited(
        _ place: GroupPlace, _ request: GroupInviteRequest,
        using generator: inout some RandomNumberGenerator
    ) throws(StoreError) -> MemberIdentity {
        guard request.role == place.role, request.name == place.name else {
            throw StoreError(
                .invalidArgument,
                "this is \(place.name) and was invited as \(request.name) of \(request.role): is "
                    + "the address right?")
        }
        guard place.cluster.isEmpty || request.cluster.isEmpty || place.cluster == request.cluster
        else {
            throw StoreError(
                .invalidArgument,
                "\(place.name) is set to be of cluster \(place.cluster), and was invited into "
                    + "cluster \(request.cluster)")
        }
        var identity = MemberIdentity(
            cluster: place.cluster.isEmpty ? request.cluster : place.cluster, role: place.role,
            group: GroupID(request.group), name: place.name,
            peer: PeerID(.random(in: Limits.firstDrawn...(1 << 62), using: &generator)),
            founders: request.founders.map { PeerID($0) }, isBegun: false,
            members: request.members.compactMap { KnownMember($0) })
        identity.formerGroups = request.formerGroups.map { GroupID($0) }
        return identity
    }

    // MARK: Kept

    /// What `directory` says, for the member that the settings describe; nil where nothing is yet.
    /// A directory of a group of one from before there were identities is given one when it is opened.
    ///
    /// Throws `invalidArgument` with both names if it is another's, `corrupt`, `io`.
    public static func load(
        from directory: String, for place: GroupPlace, on reactor: Reactor
    ) async throws(StoreError) -> MemberIdentity? {
        let path = "\(directory)/\(fileName)"
        let bytes: [UInt8]
        do throws(IOError) {
            guard try await reactor.status(path) != nil else {
                guard try await reactor.status("\(directory)/metadata.db") != nil else {
                    return nil
                }
                return old(place)
            }
            let file = try await File.open(path, [.read], on: reactor)
            let buffer = reactor.pool.allocate(Limits.fileBytes)
            let count = try await file.read(into: buffer, 0..<Limits.fileBytes, at: 0)
            try await file.close()
            bytes = Array(buffer.bytes(in: 0..<count))
        } catch {
            throw StoreError(.io, "\(path): \(error)")
        }
        return try check(bytes, path, place)
    }

    /// Writes it durably into `directory`, which is made if it is absent.
    public func store(in directory: String, on reactor: Reactor) async throws(StoreError) {
        do throws(IOError) {
            try await reactor.makeDurableDirectory(directory)
            try await write(to: directory, on: reactor)
        } catch {
            throw StoreError(
                error.isShortage ? .overloaded : .io, "\(directory)/\(Self.fileName): \(error)")
        }
    }

    private func write(to directory: String, on reactor: Reactor) async throws(IOError) {
        try await reactor.replaceFile("\(directory)/\(Self.fileName)", with: encoded)
    }

    private static func check(
        _ bytes: [UInt8], _ path: String, _ place: GroupPlace
    ) throws(StoreError) -> MemberIdentity {
        guard let identity = try MemberIdentity(parsing: bytes) else {
            throw StoreError(
                .corrupt, "\(path) cannot be read: it says whose files are in this directory")
        }
        guard identity.role == place.role, identity.name == place.name else {
            throw StoreError(
                .invalidArgument,
                "\(path): the files are of \(identity.name) (\(identity.role)), this is "
                    + "\(place.name) (\(place.role)): give each member a directory of its own")
        }
        guard
            place.cluster.isEmpty || identity.cluster.isEmpty || place.cluster == identity.cluster
        else {
            throw StoreError(
                .invalidArgument,
                "\(path): the files are of cluster \(identity.cluster), the settings name cluster "
                    + "\(place.cluster)")
        }
        return identity
    }

    // MARK: Bytes

    /// Magic (8), bytes of the record (4, little-endian), the record (group.proto), CRC32C of all
    /// before it (4).
    var encoded: [UInt8] {
        var record = GroupIdentityRecord()
        record.cluster = cluster
        record.role = role
        record.group = group.message
        record.name = name
        record.peer = peer.rawValue
        record.founders = founders.map(\.rawValue)
        record.isBegun = isBegun
        record.members = members.map(\.message)
        record.formerGroups = formerGroups.map(\.message)
        if let next {
            record.nextGroup = next.group.message
            record.nextPeer = next.peer.rawValue
        }
        let body = record.encoded
        var bytes = Self.magic
        bytes.appendLittleEndian(UInt32(body.count))
        bytes += body
        bytes.appendLittleEndian(CRC32C.of(bytes))
        return bytes
    }

    /// nil for bytes that are damaged. Throws `versionMismatch` for those of a later program.
    init?(parsing bytes: [UInt8]) throws(StoreError) {
        guard bytes.count >= 16, bytes.starts(with: Self.magic.dropLast()) else { return nil }
        guard bytes.starts(with: Self.magic) else {
            throw StoreError(
                .versionMismatch, "a later version of this program has written \(Self.fileName)")
        }
        var reader = RaftByteReader(Array(bytes.dropFirst(8)))
        let size: UInt32 = try reader.number()
        guard Int(size) + 16 == bytes.count else { return nil }
        var end = RaftByteReader(Array(bytes.suffix(4)))
        guard try end.number() == CRC32C.of(Array(bytes.dropLast(4))) else { return nil }
        let record = try GroupIdentityRecord(parsing: Array(bytes[12..<12 + Int(size)]))
        self.init(
            cluster: record.cluster, role: record.role, group: GroupID(record.group),
            name: record.name, peer: PeerID(record.peer),
            founders: record.founders.map { PeerID($0) }, isBegun: record.isBegun,
            members: record.members.compactMap { KnownMember($0) })
        guard peer != .none, !peer.isStorageThread else { return nil }
        formerGroups = record.formerGroups.map { GroupID($0) }
        if record.hasNextGroup { next = (GroupID(record.nextGroup), PeerID(record.nextPeer)) }
    }

    /// Throws `invalidArgument` while a recovery of the member has not ended.
    func checkWhole(in directory: String) throws(StoreError) {
        guard next != nil else { return }
        throw StoreError(
            .invalidArgument,
            "a recovery of \(name) in \(directory) was begun and has not ended: run it again, with "
                + "apus \(role) --recover-alone --accept-loss")
    }

    init(
        cluster: String, role: String, group: GroupID, name: String, peer: PeerID,
        founders: [PeerID], isBegun: Bool, members: [KnownMember]
    ) {
        self.cluster = cluster
        self.role = role
        self.group = group
        self.name = name
        self.peer = peer
        self.founders = founders
        self.isBegun = isBegun
        self.members = members
    }
}

extension KnownMember {
    /// nil for one that has no number.
    init?(_ message: GroupMember) {
        let peer = PeerID(message.peer)
        guard peer != .none, !peer.isStorageThread else { return nil }
        self.init(
            peer: peer, name: message.name, address: message.address,
            part: message.role == .learner ? .learner : .voter)
    }

    var message: GroupMember {
        var message = GroupMember()
        message.peer = peer.rawValue
        message.name = name
        message.address = address
        message.role = part == .learner ? .learner : .follower
        return message
    }
}
