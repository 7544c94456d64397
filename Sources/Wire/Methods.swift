/// What can be asked of a datanode; messages in datanode.proto. Numbers are part of the protocol.
public enum DatanodeMethod: UInt16, Hashable, Sendable, CaseIterable {
    case writeCell = 0x0201
    case readBlock = 0x0202
    case block = 0x0203
    case listBlocks = 0x0204
    case closeContainer = 0x0205
    case status = 0x0206
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
}
