import RaftDriver

extension OzoneManager {
    /// Gives back what is only kept to be quick. To be called when there is nothing to do.
    public func releaseMemory() async { await group.releaseMemory() }
}
