/// Bounds that the sides of names and of bytes share.
enum ClientLimits {
    /// How long a node that failed is left alone by all of a process: it is not asked if there is
    /// a way without it, and nothing is opened ahead that would have a place on it.
    static let avoidance = Duration.seconds(2)
}
