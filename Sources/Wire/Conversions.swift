import Model

// Between Model's values and the messages that carry them. What arrives is checked here: a
// message that stands for no valid value is refused with `badRequest`.

extension ReplicationConfig {
    /// Throws `invalidArgument` with the reason if the combination cannot be coded or so many
    /// copies are not made, `badRequest` if it is of a codec that is not known.
    public init(_ message: WireReplication) throws(StoreError) {
        switch message.codec {
        case .rs: self = .erasureCoded(try ErasureCoding(message, .rs))
        case .xor: self = .erasureCoded(try ErasureCoding(message, .xor))
        case .copies: self = .replicated(try Factor(message))
        case .UNRECOGNIZED(let value):
            throw StoreError(
                .badRequest, "codec \(value) is not known: the codecs are rs, xor, copies")
        }
    }

    public var message: WireReplication {
        var message = WireReplication()
        switch self {
        case .erasureCoded(let coding):
            switch coding.codec {
            case .rs: message.codec = .rs
            case .xor: message.codec = .xor
            }
            message.data = UInt32(coding.data)
            message.parity = UInt32(coding.parity)
            message.cellSize = UInt32(coding.cellSize)
        case .replicated(let factor):
            message.codec = .copies
            message.data = UInt32(factor.rawValue)
        }
        return message
    }
}

extension ErasureCoding {
    fileprivate init(_ message: WireReplication, _ codec: Codec) throws(StoreError) {
        do throws(ReplicationError) {
            try self.init(
                codec: codec, data: Int(message.data), parity: Int(message.parity),
                cellSize: Int(message.cellSize))
        } catch {
            throw StoreError(.invalidArgument, error.description)
        }
    }
}

extension ReplicationConfig.Factor {
    fileprivate init(_ message: WireReplication) throws(StoreError) {
        guard let factor = Self(rawValue: Int(message.data)), message.parity == 0,
            message.cellSize == 0
        else {
            throw StoreError(
                .invalidArgument,
                "there are 1 or 3 whole copies, without parity and cells, not \(message.data) with "
                    + "\(message.parity) parity cells of \(message.cellSize) bytes")
        }
        self = factor
    }
}

extension BlockID {
    public init(_ message: WireBlock) {
        self.init(containerID: ContainerID(message.container), localID: message.local)
    }

    public var message: WireBlock {
        var message = WireBlock()
        message.container = containerID.rawValue
        message.local = localID
        return message
    }
}

extension Identity128 {
    public init(_ message: WireIdentity) { self.init(high: message.high, low: message.low) }

    public var message: WireIdentity {
        var message = WireIdentity()
        message.high = high
        message.low = low
        return message
    }
}

extension DatanodeAddress {
    /// nil if the message has no identity: an empty place.
    public init?(_ message: WireAddress) throws(StoreError) {
        guard message.hasID else { return nil }
        guard message.port > 0, message.port <= 65535 else {
            throw StoreError(.badRequest, "a port is 1 to 65535, not \(message.port)")
        }
        self.init(
            id: Identity128(message.id), host: message.host, port: Int(message.port),
            rack: message.rack.isEmpty ? "/default-rack" : message.rack)
    }

    public var message: WireAddress {
        var message = WireAddress()
        message.id = id.message
        message.host = host
        message.port = UInt32(port)
        message.rack = rack
        return message
    }
}

extension BlockGroup {
    public init(_ message: WireGroup) throws(StoreError) {
        let replication = try ReplicationConfig(message.replication)
        guard message.nodes.count == replication.width else {
            throw StoreError(
                .badRequest,
                "a block group of \(replication) has \(replication.width) places, "
                    + "not \(message.nodes.count)")
        }
        guard message.length <= replication.blockGroupSize else {
            throw StoreError(
                .badRequest,
                "a block group of \(replication) holds at most \(replication.blockGroupSize) "
                    + "bytes, not \(message.length)")
        }
        var range: Range<Int>?
        if message.count > 0 || message.offset > 0 {
            let (end, isBeyond) = message.offset.addingReportingOverflow(message.count)
            guard message.count > 0, !isBeyond, end <= message.length else {
                throw StoreError(
                    .badRequest,
                    "\(message.count) bytes from \(message.offset) on are not within a block group "
                        + "of \(message.length)")
            }
            range = Int(message.offset)..<Int(end)
        }
        var nodes: [DatanodeAddress?] = []
        nodes.reserveCapacity(message.nodes.count)
        for node in message.nodes { nodes.append(try DatanodeAddress(node)) }
        guard message.mayCreate.isEmpty || message.mayCreate.count == nodes.count else {
            throw StoreError(
                .badRequest,
                "a block group of \(replication) has a permission for each of "
                    + "\(replication.width) replicas or none, not \(message.mayCreate.count)")
        }
        self.init(
            blockID: BlockID(message.block), replication: replication,
            length: Int(message.length), nodes: nodes)
        self.range = range
        permissions = message.mayCreate
        token = message.token.octets
    }

    public var message: WireGroup {
        var message = WireGroup()
        message.block = blockID.message
        message.replication = replication.message
        message.length = UInt64(length)
        message.nodes = nodes.map { $0?.message ?? WireAddress() }
        if let range {
            message.offset = UInt64(range.lowerBound)
            message.count = UInt64(range.count)
        }
        message.mayCreate = permissions
        message.token = .octets(token)
        return message
    }
}
