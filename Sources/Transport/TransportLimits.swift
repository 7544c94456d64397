import Reactor

/// The bounds of connections, of what is on its way over them, and of the time that things may take.
public enum TransportLimits {
    /// Request payload bytes that a server takes in flight on one connection.
    public static let credit = 32 << 20
    /// Bytes of requests in flight on one connection, messages and payloads, beyond which a server
    /// reads no further ones. Messages of honest clients fit beside their credit.
    public static let receivedBytes = credit + (8 << 20)
    /// Bytes of answers that the client has not taken, beyond which a server reads no further
    /// requests of the connection.
    public static let unsentBytes = 32 << 20
    /// Requests in flight on one connection; a server stops reading beyond it.
    public static let requestsPerConnection = 4096
    /// Bytes received at once while headers and messages are expected.
    public static let stagingBytes = 16 << 10
    /// Frames sent with one call, and their bytes; one frame may have more.
    public static let framesPerSend = 32
    public static let bytesPerSend = 8 << 20
    /// Bytes of a hello: what the other end calls itself.
    public static let helloBytes = 1 << 10
    /// Bytes of an error's text; what is longer is cut.
    public static let errorBytes = 64 << 10
    /// Bytes that the answers of a process may take together from before they are read until they
    /// have been sent; those of one connection; and requests that may wait for it.
    public static let answerBytes = 512 << 20
    public static let answerBytesPerConnection = 64 << 20
    public static let waitingAnswers = 4096
    /// The largest memory of a client that a server maps.
    public static let sharedBytes = 64 << 30
    /// How long a connection may take to come about.
    public static let connectTimeout = Duration.seconds(5)
    /// After a failed attempt to connect, calls fail at once for so long.
    public static let reconnectDelay = Duration.milliseconds(200)
    /// How long a server waits where it can accept no connection: no descriptors are left, say.
    public static let acceptPause = Duration.milliseconds(100)
    /// How long at most between two attempts to take the name for clients of the same machine.
    static let namePause = Duration.seconds(10)
    /// How long the other end has to read why its connection ends, and how often it is looked
    /// whether that has left.
    static let goodbyePause = Duration.milliseconds(50)
    static let goodbyeLooks = 40
    /// Steps in which deadlines are looked at.
    public static let deadlineTick = Duration.milliseconds(50)
    /// Calls that a server has not taken up because it ended an idle connection are made once more
    /// on a new one, so often.
    public static let callsNotTaken = 8
}

/// What a server takes of connections, and how long it keeps those that do nothing.
public struct ServerLimits: Sendable {
    /// Connections of this server at once.
    public var connections: Int
    /// Connections from one address, or from one process of this machine.
    public var connectionsPerOrigin: Int
    /// Connections of all servers of this process: the descriptors that are left are for files.
    public var connectionsOfProcess: Int
    /// How long a connection may take to say a valid hello.
    public var helloTimeout = Duration.seconds(10)
    /// How long a connection may be without a request; its client connects again for the next.
    public var idleTimeout = Duration.seconds(600)
    /// How long a client may take nothing of the answers that it asked for.
    public var stallTimeout = Duration.seconds(120)
    /// Steps in which connections are looked at.
    public var interval = Duration.seconds(5)

    /// Bounds that fit the descriptors that this process may have.
    public init(descriptors: Int = Descriptors.limit) {
        precondition(descriptors > 0, "a process has descriptors")
        connections = min(8192, max(8, descriptors / 4))
        connectionsPerOrigin = min(2048, max(4, descriptors / 8))
        connectionsOfProcess = max(16, descriptors / 2)
    }
}
