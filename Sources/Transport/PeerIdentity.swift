import Reactor

/// Who is at the other end of a connection, as far as the connection itself proves it. Filled in
/// by the transport; what a peer says of itself is no part of it (`RPCRequest.caller`).
public enum PeerIdentity: Hashable, Sendable, CustomStringConvertible {
    /// A caller in the same process.
    case sameProcess
    /// A process of this machine, as the kernel names it (`SO_PEERCRED`): its number when it
    /// connected, and its user.
    case process(Int32, user: UInt32)
    /// A host of the network: the address in figures and the port. That is where it is, not who.
    case address(String)

    /// Who connected with `socket`.
    init(of socket: Socket) {
        if let process = socket.peerProcess {
            self = .process(process.number, user: process.user)
        } else {
            self = .address(socket.peer)
        }
    }

    public var description: String {
        switch self {
        case .sameProcess: "this process"
        case .process(let number, let user): "process \(number) of user \(user)"
        case .address(let address): address
        }
    }

    /// What connections are counted by: the process, or the address without its port.
    var origin: Origin {
        switch self {
        case .sameProcess: .process(0)
        case .process(let number, _): .process(number)
        case .address(let address):
            .address(String(address[..<(address.lastIndex(of: ":") ?? address.endIndex)]))
        }
    }

    enum Origin: Hashable, Sendable {
        case process(Int32)
        case address(String)
    }
}
