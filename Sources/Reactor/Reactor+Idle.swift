extension Reactor {
    /// To be called every few seconds. After some with few operations on the pool's arena the ring
    /// gives its registration up, so that `BufferPool.releaseIdle` can give the memory back; the
    /// ring registers it again when there is much to do. Returns whether it is registered.
    @discardableResult
    public func endInterval() async -> Bool {
        await perform(IORequest(.endInterval)) == 1
    }
}
