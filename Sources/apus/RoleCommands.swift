import ArgumentParser
import Dispatch
import Foundation
import Model
import RaftDriver
import Reactor
import Synchronization

/// The options of every command that runs a role.
struct RoleOptions: ParsableArguments {
    @Option(
        name: .long,
        help: "The settings, a JSON file. Default: APUS_CONFIG, or /etc/apus/cluster.json.")
    var config: String?

    @Option(
        help: "Whose section of the settings counts. Default: APUS_HOST, or the machine's name.")
    var host: String?

    @Option(name: .customLong("set"), help: "A setting, KEY=VALUE, over environment and file.")
    var overrides: [String] = []

    /// - Parameter role: what is to run, which the file must say of this host.
    func settings(for role: ClusterRole) async throws -> Settings {
        guard let file = config ?? Self.usualFile else {
            throw ValidationError(
                "which settings? Give --config FILE, or set APUS_CONFIG; there is no "
                    + SettingsFile.standardPath)
        }
        return try await Settings(
            file: file, overrides: overrides, host: host ?? Self.usualHost, role: role)
    }

    /// The settings file of who gives none.
    static var usualFile: String? {
        let environment = ProcessInfo.processInfo.environment
        if let file = environment["APUS_CONFIG"] { return file }
        let path = SettingsFile.standardPath
        return FileManager.default.fileExists(atPath: path) ? path : nil
    }

    /// Whose section counts if nobody says so; nil: the machine's name tells.
    static var usualHost: String? { ProcessInfo.processInfo.environment["APUS_HOST"] }
}

/// The wish that this process end: SIGTERM or SIGINT, or, for a role that `apus up --separate`
/// started, the end of that process.
///
/// Listens from when it is made. One made only when there is nothing left but to wait loses what
/// comes right before: a signal is ignored before its source is registered, and nobody sends it
/// again.
final class StopRequest: Sendable {
    private let stream: AsyncStream<Void>
    private let isMadeFlag = Atomic<Bool>(false)
    private let sources = Mutex<[any DispatchSourceSignal]>([])

    /// Returns when it listens.
    init(withParent: Bool = false) async {
        let (stream, continuation) = AsyncStream<Void>.makeStream()
        let (registrations, registered) = AsyncStream<Void>.makeStream()
        self.stream = stream
        let numbers = [SIGTERM, SIGINT]
        sources.withLock { sources in
            for number in numbers {
                signal(number, SIG_IGN)
                let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
                source.setEventHandler { [weak self] in
                    self?.isMadeFlag.store(true, ordering: .relaxed)
                    continuation.yield()
                }
                source.setRegistrationHandler { registered.yield() }
                source.resume()
                sources.append(source)
            }
        }
        var missing = numbers.count
        for await _ in registrations {
            missing -= 1
            if missing == 0 { break }
        }
        guard withParent else { return }
        Thread.detachNewThread { [weak self] in
            // The other end of this pipe is held by the parent and never written to.
            var byte: UInt8 = 0
            while read(STDIN_FILENO, &byte, 1) > 0 {}
            self?.isMadeFlag.store(true, ordering: .relaxed)
            continuation.yield()
        }
    }

    /// Whether it is made.
    var isMade: Bool { isMadeFlag.load(ordering: .relaxed) }

    /// Waits until it is made; then listens no more.
    func wait() async {
        for await _ in stream { break }
        sources.withLock { sources in
            for source in sources { source.cancel() }
        }
    }
}

/// Makes the directory of a role a member's of a new group, and says what is next.
private func initialize(_ options: RoleOptions, _ kind: ClusterRole) async throws {
    let settings = try await options.settings(for: kind)
    try DirectoryOwner.check(kind, settings)
    let runtime = try Runtime(name: kind.rawValue, memory: .none, reactors: 1)
    let identity = try await GroupPort.initialize(
        settings, kind.rawValue, on: runtime.reactors.next())
    let count = identity.founders.count
    print(
        "\(identity.name) is a member of a new group of \(count)"
            + (count == 1 ? "" : ": do the same for the others, once")
            + "; then start it without --init")
}

private func runRole(
    _ options: RoleOptions, _ kind: ClusterRole, memory: Runtime.Memory,
    reactors: (Settings) throws -> Int? = { _ in nil },
    _ start: (Settings, Runtime) async throws -> RunningRole
) async throws {
    let stop = await StopRequest(
        withParent: ProcessInfo.processInfo.environment["APUS_PARENT"] != nil)
    let name = kind.rawValue
    let settings = try await options.settings(for: kind)
    try DirectoryOwner.check(kind, settings)
    let manager = ServiceManager()
    manager.status("starting")
    let runtime = try Runtime(name: name, memory: memory, reactors: reactors(settings))
    // A member that waits to be added counts as started: from then on the manager wants to hear.
    manager.keepWatch(over: runtime.reactors.reactors)
    // One that waits to be added, or that reads a long log, ends as by a crash: nothing is lost.
    let starting = Task.detached {
        while !Task.isCancelled {
            if stop.isMade { exit(0) }
            try? await Task.sleep(for: .milliseconds(100))
        }
    }
    let role: RunningRole
    do {
        role = try await start(settings, runtime)
        starting.cancel()
    } catch {
        starting.cancel()
        throw error
    }
    IdleMemory.watch(runtime)
    print("ready \(name) port=\(role.port)\(role.metrics?.announcement ?? "")")
    // Whoever reads this through a pipe waits for it.
    fflush(nil)
    manager.ready("serving on port \(role.port)")
    await stop.wait()
    manager.stopping()
    await role.stop()
}

/// The flags by which a member goes on without its group.
struct RecoverOptions: ParsableArguments {
    @Flag(
        help: """
            The majority of the group is lost for good: say what this member has, and make a new \
            group of it alone. Only with --accept-loss, and only where the role does not run.
            """)
    var recoverAlone = false
    @Flag(help: "With --recover-alone: do it. What only the lost members had is lost with them.")
    var acceptLoss = false

    func validate() throws {
        guard recoverAlone || !acceptLoss else {
            throw ValidationError("--accept-loss goes with --recover-alone")
        }
    }

    /// - Parameter begins: whether a new group is to be begun.
    func check(with begins: Bool) throws {
        guard !(recoverAlone && begins) else {
            throw ValidationError(
                "--init makes an empty directory a member's, --recover-alone goes on with what is in "
                    + "one: give one of them")
        }
    }
}

enum GroupHelp {
    static let initialize: ArgumentHelp = """
        Make the empty directory a member's of a new group, of all members that the settings name, \
        and end. Once, on each of them; whoever comes later is added to the group.
        """
}

struct OMCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "om", abstract: "Run an Ozone Manager: volumes, buckets, keys.")
    @OptionGroup var options: RoleOptions
    @Flag(name: .customLong("init"), help: GroupHelp.initialize) var begins = false
    @OptionGroup var recovery: RecoverOptions

    func validate() throws { try recovery.check(with: begins) }

    func run() async throws {
        if begins { return try await initialize(options, .om) }
        if recovery.recoverAlone {
            return try await RecoverAlone(options, .om, accepts: recovery.acceptLoss).run()
        }
        try await runRole(
            options, .om, memory: .none, reactors: Roles.reactorsOfOM, Roles.startOM)
    }
}

struct SCMCommandLine: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "scm",
        abstract: "Run a Storage Container Manager: datanodes, containers, placement.")
    @OptionGroup var options: RoleOptions
    @Flag(name: .customLong("init"), help: GroupHelp.initialize) var begins = false
    @OptionGroup var recovery: RecoverOptions

    func validate() throws { try recovery.check(with: begins) }

    func run() async throws {
        if begins { return try await initialize(options, .scm) }
        if recovery.recoverAlone {
            return try await RecoverAlone(options, .scm, accepts: recovery.acceptLoss).run()
        }
        try await runRole(options, .scm, memory: .none, Roles.startSCM)
    }
}

struct DatanodeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "datanode", abstract: "Run a datanode: container replicas on local disks.")
    @OptionGroup var options: RoleOptions
    func run() async throws {
        try await runRole(
            options, .datanode, memory: .disks, reactors: Roles.reactorsOfDatanode
        ) { settings, runtime in
            Roles.remark(onVolumesOf: [settings])
            return try await Roles.startDatanode(settings, runtime)
        }
    }
}

struct S3GatewayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "s3gateway", abstract: "Run an S3 gateway.")
    @OptionGroup var options: RoleOptions
    func run() async throws {
        try await runRole(options, .s3gateway, memory: .datanodes, Roles.startS3Gateway)
    }
}

struct ConfigCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config", abstract: "Settings and where they come from.",
        subcommands: [Show.self])

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print each setting, its value, where it came from, and what it is for.",
            discussion: """
                Where: the command line, the environment (om.cache-bytes is APUS_OM_CACHE_BYTES), \
                the section of this host in the file, the rest of the file, om.addresses for the \
                place of the one that om.id names, or the default.
                """)
        @Argument(help: "Only settings that begin with this, as in om.") var prefix = ""
        @Option(help: "A settings file. Default: APUS_CONFIG, or /etc/apus/cluster.json.")
        var config: String?
        @Option(help: "Whose section of it counts. Default: APUS_HOST, or the machine's name.")
        var host: String?
        @Option(name: .customLong("set"), help: "A setting, KEY=VALUE, over environment and file.")
        var overrides: [String] = []
        @Flag(help: "Print JSON, for programs.") var json = false

        func run() async throws {
            let settings = try await Settings(
                file: config ?? RoleOptions.usualFile, overrides: overrides,
                host: host ?? RoleOptions.usualHost)
            let rows = Setting.all.filter { $0.key.hasPrefix(prefix) }.map { setting in
                let (value, source) = settings.lookup(setting)
                return [
                    "key": setting.key, "value": value, "source": source, "help": setting.help,
                ]
            }
            guard !rows.isEmpty else {
                throw ValidationError("no setting begins with '\(prefix)'")
            }
            if json { return try printJSON(rows) }
            for row in rows {
                print("\(row["key"]!) = \(shown(row["value"]!))  (\(shown(row["source"]!)))")
                print("    \(row["help"]!)")
            }
        }
    }
}
