import Model
import Wire

extension ReplicationConfig {
    /// A replication that keys can be written with.
    ///
    /// Checked where requests are prepared, so that nothing is logged, and again where commands are
    /// applied: a version of before refuses whole copies there, a codec that it does not know, and
    /// the members of a group must not differ. The version that writes copies will apply them by
    /// rules with a number of their own (`OMFormat.command`).
    ///
    /// Throws `unsupported` for whole copies, which says what would be right; what
    /// `init(_: WireReplication)` throws for others that cannot be.
    public init(writable message: WireReplication) throws(StoreError) {
        try self.init(message)
        _ = try erasureCoding()
    }
}
