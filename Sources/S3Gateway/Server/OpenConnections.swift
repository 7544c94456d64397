import NIOCore
import NIOHTTP1
import Synchronization

/// The open connections of a gateway: so many at most. One more takes the place of the one that has
/// been without a request for longest; where all have one under way, it is refused.
///
/// Whoever can reach the port can connect and say nothing: without a bound that would use up the
/// descriptors of the process. Thread-safe: one lock, for connections that come and go; requests
/// touch their own connection's mark alone.
final class OpenConnections: Sendable {
    /// One connection.
    final class Entry: Sendable {
        fileprivate let channel: any Channel
        /// When it began to be idle, as the registry counts; 0 while a request is under way.
        fileprivate let idleSince: Atomic<UInt64>

        fileprivate init(_ channel: any Channel, since count: UInt64) {
            self.channel = channel
            idleSince = Atomic(count)
        }
    }

    private struct State {
        var entries: [ObjectIdentifier: Entry] = [:]
        var isFull = false

        /// The connection that has been without a request for longest. O(connections).
        var longestIdle: Entry? {
            var found: (entry: Entry, since: UInt64)?
            for entry in entries.values {
                let since = entry.idleSince.load(ordering: .relaxed)
                guard since > 0, since < found?.since ?? .max else { continue }
                found = (entry, since)
            }
            return found?.entry
        }
    }

    private let limit: Int
    private let clock = Atomic<UInt64>(0)
    private let state = Mutex(State())

    /// At most `limit` connections, at least 1.
    init(limit: Int) {
        precondition(limit > 0, "a gateway takes connections")
        self.limit = limit
    }

    /// Connections that are open, those that are being closed among them.
    var count: Int { state.withLock { $0.entries.count } }

    /// Counts `channel` in; nil if there is no room. `becameFull` tells the first time that a
    /// connection had to go or was refused, since fewer than half were open.
    func enter(_ channel: any Channel) -> (entry: Entry?, becameFull: Bool) {
        let entry = Entry(channel, since: now())
        let (isEntered, evicted, becameFull) = state.withLock { state in
            guard state.entries.count >= limit else {
                if state.entries.count < limit / 2 { state.isFull = false }
                state.entries[ObjectIdentifier(entry)] = entry
                return (true, Entry?.none, false)
            }
            defer { state.isFull = true }
            let becameFull = !state.isFull
            guard let idle = state.longestIdle else { return (false, nil, becameFull) }
            state.entries[ObjectIdentifier(idle)] = nil
            state.entries[ObjectIdentifier(entry)] = entry
            return (true, idle, becameFull)
        }
        evicted?.channel.close(promise: nil)
        return (isEntered ? entry : nil, becameFull)
    }

    /// Counts a connection out that has ended.
    func leave(_ entry: Entry) {
        state.withLock { $0.entries[ObjectIdentifier(entry)] = nil }
    }

    /// A request is under way on the connection.
    func begin(_ entry: Entry) { entry.idleSince.store(0, ordering: .relaxed) }

    /// It has been answered.
    func end(_ entry: Entry) { entry.idleSince.store(now(), ordering: .relaxed) }

    private func now() -> UInt64 { clock.wrappingAdd(1, ordering: .relaxed).newValue }
}

/// Closes a connection that does not send the head of its first request in time, and one that takes
/// nothing of its answers for long. On the channel's event loop.
final class Patience: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPServerRequestPart

    private let head: TimeAmount
    private let stall: TimeAmount
    private var waitsForHead: Scheduled<Void>?
    private var waitsForRoom: Scheduled<Void>?

    /// Adds one behind the parser of HTTP/1. On the channel's event loop.
    static func add(to channel: any Channel, head: TimeAmount, stall: TimeAmount) throws {
        let pipeline = channel.pipeline.syncOperations
        let parser = try pipeline.handler(type: ByteToMessageHandler<HTTPRequestDecoder>.self)
        try pipeline.addHandler(Patience(head: head, stall: stall), position: .after(parser))
    }

    init(head: TimeAmount, stall: TimeAmount) {
        self.head = head
        self.stall = stall
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        waitsForHead = context.eventLoop.scheduleTask(in: head) { channel.close(promise: nil) }
    }

    func handlerRemoved(context: ChannelHandlerContext) { forget() }

    func channelInactive(context: ChannelHandlerContext) {
        forget()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if let waiting = waitsForHead {
            waiting.cancel()
            waitsForHead = nil
        }
        context.fireChannelRead(data)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        waitsForRoom?.cancel()
        waitsForRoom = nil
        if !context.channel.isWritable {
            let channel = context.channel
            waitsForRoom = context.eventLoop.scheduleTask(in: stall) {
                channel.close(promise: nil)
            }
        }
        context.fireChannelWritabilityChanged()
    }

    private func forget() {
        waitsForHead?.cancel()
        waitsForHead = nil
        waitsForRoom?.cancel()
        waitsForRoom = nil
    }
}
