import Foundation

/// A directory that is removed with everything in it at the end of `body`.
func withDirectory<R>(_ body: (String) async throws -> R) async throws -> R {
    let url = FileManager.default.temporaryDirectory
        .appendingPathComponent("apus-store-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: url) }
    return try await body(url.path)
}

func makeDirectory(_ path: String) throws {
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
}

func move(_ path: String, to other: String) throws {
    try FileManager.default.moveItem(atPath: path, toPath: other)
}

func removeFile(_ path: String) throws { try FileManager.default.removeItem(atPath: path) }

/// The names in a directory.
func names(in path: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: path).sorted()
}

/// The bytes of a file.
func contents(of path: String) throws -> [UInt8] {
    Array(try Data(contentsOf: URL(fileURLWithPath: path)))
}

func replaceContents(of path: String, with bytes: [UInt8]) throws {
    try Data(bytes).write(to: URL(fileURLWithPath: path))
}

/// Inverts one bit of a file.
func flipBit(_ bit: Int, of path: String) throws {
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
    defer { try? file.close() }
    try file.seek(toOffset: UInt64(bit / 8))
    guard let byte = try file.read(upToCount: 1)?.first else { return }
    try file.seek(toOffset: UInt64(bit / 8))
    try file.write(contentsOf: [byte ^ (1 << UInt8(bit % 8))])
    try file.synchronize()
}

/// A copy of a directory below `parent`, which is made.
func copyTree(_ from: String, to path: String, making parent: String) throws {
    try makeDirectory(parent)
    try FileManager.default.copyItem(atPath: from, toPath: path)
}

func environment(_ name: String) -> String? { ProcessInfo.processInfo.environment[name] }
