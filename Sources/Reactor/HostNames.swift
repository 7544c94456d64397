import Glibc

// Names of hosts. Numeric addresses cost nothing; a name may wait for seconds for a resolver that
// does not answer, so on a reactor it is looked up by a thread that does nothing else.

extension Reactor {
    /// The address of `host`.
    func lookUp(host: String, port: Int) async throws(IOError) -> SocketAddress {
        if let address = SocketAddress(numeric: host, port: port) { return address }
        return try await onThread(BlockingThreads.lookingUp, "look up", "\(host):\(port)") {
            do throws(IOError) {
                return .success(try SocketAddress(lookingUp: host, port: port, isPassive: false))
            } catch {
                return .failure(error)
            }
        }
    }
}

extension SocketAddress {
    /// Looks `host` up; waits for the resolver if it is a name.
    /// - Parameter isPassive: to listen at; an empty host is all addresses of this machine then.
    init(lookingUp host: String, port: Int, isPassive: Bool) throws(IOError) {
        let flags = AI_NUMERICSERV | (isPassive ? AI_PASSIVE : 0)
        switch Self.find(host, port, flags: flags) {
        case .success(let address): self = address
        case .failure(let failure):
            throw IOError(
                code: EHOSTUNREACH,
                operation: "look up (\(String(cString: gai_strerror(failure.code))))",
                path: "\(host):\(port)")
        }
    }

    /// nil if `host` is a name.
    init?(numeric host: String, port: Int) {
        guard
            case .success(let address) = Self.find(
                host, port, flags: AI_NUMERICSERV | AI_NUMERICHOST)
        else { return nil }
        self = address
    }

    private struct LookUpFailure: Error { var code: Int32 }

    private static func find(
        _ host: String, _ port: Int, flags: Int32
    ) -> Result<SocketAddress, LookUpFailure> {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = flags
        var found: UnsafeMutablePointer<addrinfo>?
        let result = getaddrinfo(host.isEmpty ? nil : host, String(port), &hints, &found)
        guard result == 0, let found else { return .failure(LookUpFailure(code: result)) }
        defer { freeaddrinfo(found) }
        var address = SocketAddress()
        address.length = found.pointee.ai_addrlen
        withUnsafeMutableBytes(of: &address.storage) { target in
            target.copyMemory(
                from: UnsafeRawBufferPointer(
                    start: found.pointee.ai_addr, count: Int(found.pointee.ai_addrlen)))
        }
        return .success(address)
    }
}
