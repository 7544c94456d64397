/// What can be asked of every role; messages in telemetry.proto. Numbers are part of the protocol.
public enum CommonMethod: UInt16, Hashable, Sendable, CaseIterable {
    /// The spans of a request, or the slowest requests.
    case trace = 0x0001
}

/// What members of a Raft group say to each other. Numbers are part of the protocol.
public enum RaftMethod: UInt16, Hashable, Sendable, CaseIterable {
    case messages = 0x0401
    case snapshotPiece = 0x0402
    /// What a member knows of its group; messages of this and what follows in group.proto.
    case status = 0x0403
    case invite = 0x0404
    case addMember = 0x0405
    case removeMember = 0x0406
    case transferLeadership = 0x0407
}

/// What can be asked of a datanode; messages in datanode.proto. Numbers are part of the protocol.
public enum DatanodeMethod: UInt16, Hashable, Sendable, CaseIterable {
    case writeCell = 0x0201
    case readBlock = 0x0202
    case block = 0x0203
    case listBlocks = 0x0204
    case closeContainer = 0x0205
    case status = 0x0206
    case disks = 0x0207
    case volume = 0x0208
}

/// What can be asked of the Storage Container Manager; messages in scm.proto. Numbers are part of
/// the protocol.
public enum SCMMethod: UInt16, Hashable, Sendable, CaseIterable {
    case register = 0x0301
    case heartbeat = 0x0302
    case allocate = 0x0303
    case locate = 0x0304
    case deleteBlocks = 0x0305
    case reportCorrupt = 0x0306
    case status = 0x0307
    case closeContainer = 0x0308
    case safeMode = 0x0309
    case closings = 0x030A
    case safety = 0x030B
    case operate = 0x030C
    case balance = 0x030D
}

/// What methods are called in metrics and traces.
public enum MethodNames {
    /// By number.
    public static let all: [UInt16: String] = {
        var names: [UInt16: String] = [:]
        for method in CommonMethod.allCases { names[method.rawValue] = "\(method)" }
        for method in OMMethod.allCases { names[method.rawValue] = "\(method)" }
        for method in DatanodeMethod.allCases { names[method.rawValue] = "\(method)" }
        for method in SCMMethod.allCases { names[method.rawValue] = "\(method)" }
        for method in RaftMethod.allCases { names[method.rawValue] = "\(method)" }
        return names
    }()

    /// The same, found by the number.
    private static let table: [String] = {
        var table = [String](repeating: "unknown", count: Int(all.keys.max() ?? 0) + 1)
        for (method, name) in all { table[Int(method)] = name }
        return table
    }()

    /// The name of a method; `unknown` if there is none.
    public static func name(of method: UInt16) -> String {
        Int(method) < table.count ? table[Int(method)] : "unknown"
    }
}
