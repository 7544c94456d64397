import MetadataStore
import Model
import RaftLog

extension MetadataEngine {
    /// Gives back what is only kept to be quick: entries of the log in memory, pages of the tables.
    /// To be called when there is nothing to do.
    func releaseMemory() async {
        store.releaseMemory()
        await log.releaseMemory()
    }
}

extension MetadataGroup {
    /// Gives back what is only kept to be quick: entries of the log in memory, pages of the tables.
    /// To be called when there is nothing to do.
    public func releaseMemory() async { await engine.releaseMemory() }
}
