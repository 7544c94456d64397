import MetadataStore
import Model
import Raft
import Synchronization
import Wire

/// The tables that every group has beside those of its state machine.
public enum GroupTable {
    /// Number of a member → GroupMember: its name and address.
    public static let members = MetadataTable(250)
    /// All of them.
    public static let all = [members]
}

/// Names and addresses of a group's members, as its log has them: kept in the tables, so that
/// snapshots bring them along, and in memory.
///
/// A change of members that bears a context (`ConfChangeV2.context`) of this form and changes
/// nobody's part (`updatePeer`) changes the book. Whoever is added is written into it before that.
final class MemberBook: Sendable {
    private struct State {
        var rows: [PeerID: KnownMember] = [:]
        /// Those of them that the tables have.
        var logged: [PeerID: KnownMember] = [:]
        /// Told of a member's address.
        var onAddress: (@Sendable (PeerID, String) -> Void)?
    }

    private let state: Mutex<State>

    /// - Parameter known: where members are while the tables do not say.
    init(_ known: [KnownMember]) {
        var state = State()
        for member in known { state.rows[member.peer] = member }
        self.state = Mutex(state)
    }

    var rows: [PeerID: KnownMember] { state.withLock { $0.rows } }

    /// What the log says, without what is only known from settings.
    var logged: [PeerID: KnownMember] { state.withLock { $0.logged } }

    /// `body` is called with each address, now and when another is learned; on any thread.
    func onAddress(_ body: @Sendable @escaping (PeerID, String) -> Void) {
        let rows = state.withLock { state in
            state.onAddress = body
            return state.rows
        }
        for row in rows.values where !row.address.isEmpty { body(row.peer, row.address) }
    }

    // MARK: In the log

    /// The bytes of a change that writes `members` into the book and strikes out `removed`.
    static func context(setting members: [KnownMember], removing removed: [PeerID] = []) -> [UInt8]
    {
        var change = GroupBookChange()
        change.set = members.map(\.message)
        change.removed = removed.map(\.rawValue)
        return change.encoded
    }

    /// The change of the book that a change of members bears; nil if it bears none.
    static func change(in change: ConfChangeV2) -> GroupBookChange? {
        guard !change.context.isEmpty, !change.changes.isEmpty,
            change.changes.allSatisfy({ $0.kind == .updatePeer })
        else { return nil }
        return try? GroupBookChange(parsing: change.context)
    }

    static func apply(_ change: GroupBookChange, in tables: some MetadataTransaction) {
        for member in change.set where KnownMember(member) != nil {
            tables.put(GroupTable.members, key(PeerID(member.peer)), member.encoded)
        }
        for peer in change.removed { tables.delete(GroupTable.members, key(PeerID(peer))) }
    }

    private static func key(_ peer: PeerID) -> [UInt8] {
        var key: [UInt8] = []
        key.appendBigEndian(peer.rawValue)
        return key
    }

    // MARK: In memory

    /// A change can be read.
    func learn(_ change: GroupBookChange) {
        take(change.set.compactMap { KnownMember($0) })
        state.withLock { state in
            for peer in change.removed {
                state.rows[PeerID(peer)] = nil
                state.logged[PeerID(peer)] = nil
            }
        }
    }

    /// The tables were opened, or a snapshot took their place. What they do not say stays as it was
    /// known.
    func learn(from tables: some MetadataReader) throws(StoreError) {
        let rows = try Self.rows(in: tables)
        state.withLock { $0.logged = [:] }
        take(Array(rows.values))
    }

    /// What the tables say.
    static func rows(
        in tables: some MetadataReader
    ) throws(StoreError) -> [PeerID: KnownMember] {
        var rows: [PeerID: KnownMember] = [:]
        var failure: StoreError?
        tables.scan(GroupTable.members, from: []) { _, row in
            do throws(StoreError) {
                if let member = KnownMember(try GroupMember(parsing: row)) {
                    rows[member.peer] = member
                }
                return true
            } catch {
                failure = StoreError(
                    .corrupt, "the address of a member cannot be read: \(error.message)")
                return false
            }
        }
        if let failure { throw failure }
        return rows
    }

    private func take(_ members: [KnownMember]) {
        let (changed, body) = state.withLock { state in
            let changed = members.filter { state.rows[$0.peer]?.address != $0.address }
            for member in members {
                state.rows[member.peer] = member
                state.logged[member.peer] = member
            }
            return (changed, state.onAddress)
        }
        for member in changed where !member.address.isEmpty { body?(member.peer, member.address) }
    }
}
