import Foundation
import Model
import Reactor

/// The service manager that started this process, and what it is told: sd_notify(3) of systemd,
/// spoken without its library. A message is one datagram of lines `NAME=VALUE`.
///
/// Does nothing where the environment names no manager.
struct ServiceManager: Sendable {
    /// `NOTIFY_SOCKET`: a path, or an abstract name behind `@`.
    private let socket: String?
    /// How long a message may wait for room in the manager's queue.
    static let patienceSeconds = 2

    /// How often the manager wants to hear that the process lives.
    let watchdog: Duration?

    init(_ environment: [String: String] = ProcessInfo.processInfo.environment) {
        socket = environment["NOTIFY_SOCKET"].flatMap { $0.isEmpty ? nil : $0 }
        let isOurs = environment["WATCHDOG_PID"].map { Int32($0) == getpid() } ?? true
        let interval = environment["WATCHDOG_USEC"].flatMap { Int64($0) }
        watchdog =
            isOurs ? interval.flatMap { $0 > 0 ? Duration.microseconds($0) : nil } : nil
    }

    /// The role serves.
    func ready(_ status: String) { tell(["READY=1", "STATUS=\(status)"]) }

    /// What the role does; a line for whoever asks for the state of the unit.
    func status(_ text: String) { tell(["STATUS=\(text)"]) }

    /// The role is about to end.
    func stopping() { tell(["STOPPING=1", "STATUS=stopping"]) }

    /// Tells `lines`; what goes wrong is noted on standard error, once for each message.
    private func tell(_ lines: [String]) {
        do throws(StoreError) { try send(lines) } catch { note(error.message) }
    }

    /// - Throws: `io` if the manager's socket does not take it; `invalidArgument` for a name that no
    ///   socket has.
    func send(_ lines: [String]) throws(StoreError) {
        guard let name = socket else { return }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var bytes = Array(name.utf8)
        let isAbstract = bytes.first == UInt8(ascii: "@")
        guard isAbstract || bytes.first == UInt8(ascii: "/"),
            bytes.count < MemoryLayout.size(ofValue: address.sun_path)
        else {
            throw StoreError(
                .invalidArgument,
                "NOTIFY_SOCKET is a path or @NAME of at most 107 bytes, not '\(name)'")
        }
        if isAbstract { bytes[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        // An abstract name ends where the address does, a path with a zero.
        let length = MemoryLayout<sa_family_t>.size + bytes.count + (isAbstract ? 0 : 1)
        let descriptor = Foundation.socket(
            AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw failure("no socket") }
        defer { close(descriptor) }
        // A manager that hangs does not hold the role up for ever.
        var patience = timeval(tv_sec: Self.patienceSeconds, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience,
            socklen_t(MemoryLayout<timeval>.size))
        let message = Array(lines.joined(separator: "\n").utf8)
        let sent = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(
                    descriptor, message, message.count, Int32(MSG_NOSIGNAL), $0,
                    socklen_t(length))
            }
        }
        guard sent == message.count else { throw failure("the service manager is not told") }
    }

    private func failure(_ what: String) -> StoreError {
        StoreError(.io, "\(what): \(String(cString: strerror(errno)))")
    }

    /// Says that the process lives, as often as the manager wants to hear it twice, as long as each
    /// of `reactors` takes and does a job. A reactor that hangs ends that, and the manager starts
    /// the role anew.
    func keepWatch(over reactors: [Reactor]) {
        guard socket != nil, let watchdog else { return }
        Task.detached {
            while true {
                for reactor in reactors { await Task(executorPreference: reactor) {}.value }
                tell(["WATCHDOG=1"])
                do { try await Task.sleep(for: watchdog / 2) } catch { return }
            }
        }
    }
}
