import ArgumentParser
import Client
import Crypto
import Foundation
import Logging
import Model
import RaftDriver
import Reactor
import Transport
import Wire

/// `apus up`: a whole cluster under one directory.
struct Up: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a whole cluster on this machine, in the foreground.")

    @Option(help: "Where everything is kept. A second start finds all data.")
    var dir: String = ProcessInfo.processInfo.environment["APUS_DIR"] ?? "apus-data"
    @Option(help: "Number of Ozone Managers: 3 go on when one of them dies.") var oms = 1
    @Option(help: "Number of Storage Container Managers.") var scms = 1
    @Option(help: "Number of datanodes.") var datanodes = 5
    @Option(name: .customLong("volumes-per-datanode"), help: "Directories that stand for disks.")
    var volumesPerDatanode = 1
    @Option(help: "What buckets are coded with that ask for nothing else.")
    var replication = "rs-3-2-1024k"
    @Option(help: "HOST:PORT of the S3 gateway.") var s3 = "127.0.0.1:9878"
    @Option(help: "HOST:PORT of Recon, which is not there yet: the option changes nothing.")
    var recon: String?
    @Flag(help: "Run each role in a process of its own, its id in DIR/run.") var separate = false
    @Option(name: .customLong("set"), help: "A setting for all roles, KEY=VALUE.")
    var overrides: [String] = []

    func validate() throws {
        guard (1...7).contains(oms), (1...7).contains(scms) else {
            throw ValidationError("--oms and --scms take 1 to 7; 3 is usual")
        }
        guard datanodes >= 1, datanodes <= 64 else {
            throw ValidationError("--datanodes takes 1 to 64")
        }
        guard volumesPerDatanode >= 1, volumesPerDatanode <= 64 else {
            throw ValidationError("--volumes-per-datanode takes 1 to 64")
        }
        do {
            let config = try ReplicationConfig(replication)
            _ = try config.erasureCoding()
            guard config.width <= datanodes else {
                throw ValidationError(
                    "\(config) needs \(config.width) datanodes, --datanodes is \(datanodes)")
            }
        } catch let error as ReplicationError {
            throw ValidationError("--replication: \(error)")
        } catch let error as StoreError {
            throw ValidationError("--replication: \(error.message)")
        }
        do throws(StoreError) {
            _ = try ClusterLayout.address(s3)
        } catch {
            throw ValidationError(error.message)
        }
    }

    func run() async throws {
        let stop = await StopRequest()
        let layout = try ClusterLayout(
            directory: dir, oms: oms, scms: scms, datanodes: datanodes,
            volumesPerDatanode: volumesPerDatanode,
            replication: replication, s3: s3)
        let lock = try await DirectoryLock(layout.directory + "/run")
        try layout.write()
        let joining =
            try await begin(layout, "om", layout.oms) + begin(layout, "scm", layout.scms)
        if recon != nil { note("Recon is not there yet; --recon changes nothing") }
        if separate {
            try await runSeparately(layout, joining, stop)
        } else {
            try await runTogether(layout, joining, stop)
        }
        lock.release()
    }

    /// Begins the group of `role` if no member has files yet. Those that are to join it otherwise.
    private func begin(
        _ layout: ClusterLayout, _ role: String, _ names: [String]
    ) async throws -> [String] {
        let joining = try layout.joining(names, role)
        guard layout.begun(role).isEmpty else { return joining }
        let reactor = try Runtime(name: "up", memory: .none, reactors: 1).reactors.next()
        var founders: Set<String> = []
        for name in layout.present(role) {
            let settings = try await Settings(file: layout.file(name), overrides: overrides)
            let identity = try await MemberIdentity.load(
                from: "\(layout.directory)/\(name)", for: settings.place(role), on: reactor)
            guard let identity else { continue }
            founders.formUnion(
                identity.members.filter { identity.founders.contains($0.peer) }.map(\.name))
        }
        guard try !layout.isThere(role, founders: founders) else { return joining }
        for name in names {
            // Of a first start that was cut off.
            try layout.forget(name)
            let settings = try await Settings(file: layout.file(name), overrides: overrides)
            _ = try await GroupPort.initialize(settings, role, on: reactor)
        }
        return []
    }

    /// Has the members added that joined the cluster's settings since it began.
    private func add(_ joining: [String], _ layout: ClusterLayout, _ runtime: Runtime) async throws
    {
        for name in joining {
            let settings = try await Settings(file: layout.file(name), overrides: overrides)
            let role = layout.oms.contains(name) ? "om" : "scm"
            let place = try settings.place(role)
            let group = try GroupClient(
                settings.addresses(of: role), channels: runtime.channels,
                on: runtime.reactors.next())
            try await group.add(name, at: place.address)
            note("\(name) was added to its group, and votes when it has caught up")
        }
    }

    private func runTogether(
        _ layout: ClusterLayout, _ joining: [String], _ stop: StopRequest
    ) async throws {
        let runtime = try Runtime(name: "up", memory: .disks)
        var running: [RunningRole] = []
        do {
            let settings = { (name: String) in
                try await Settings(file: layout.file(name), overrides: overrides)
            }
            for name in layout.scms where !joining.contains(name) {
                running.append(try await Roles.startSCM(settings(name), runtime))
            }
            for name in layout.oms where !joining.contains(name) {
                running.append(try await Roles.startOM(settings(name), runtime))
            }
            var ofDatanodes: [Settings] = []
            for index in 1...datanodes { ofDatanodes.append(try await settings("dn\(index)")) }
            Roles.remark(onVolumesOf: ofDatanodes)
            for settings in ofDatanodes {
                running.append(try await Roles.startDatanode(settings, runtime))
            }
            let s3Settings = try await settings("s3g1")
            let client = try Roles.client(s3Settings, runtime)
            try await becomeReady(client, layout, until: stop)
            running.append(try await Roles.startS3Gateway(s3Settings, runtime))
            IdleMemory.watch(runtime)
            announce(layout, s3Port: running[running.count - 1].port)
            // They are there once they have been added, which needs them to wait for it.
            let waiting = joining.map { name in
                Task {
                    let settings = try await Settings(
                        file: layout.file(name), overrides: overrides)
                    return try await layout.oms.contains(name)
                        ? Roles.startOM(settings, runtime) : Roles.startSCM(settings, runtime)
                }
            }
            try await add(joining, layout, runtime)
            for role in waiting { running.insert(try await role.value, at: 0) }
        } catch {
            for role in running.reversed() { await role.stop() }
            throw error
        }
        await stop.wait()
        for role in running.reversed() { await role.stop() }
    }

    private func runSeparately(
        _ layout: ClusterLayout, _ joining: [String], _ stop: StopRequest
    ) async throws {
        let children = Children(layout: layout, overrides: overrides)
        do {
            for name in layout.scms { try children.start(name, "scm") }
            for name in layout.oms { try children.start(name, "om") }
            for index in 1...datanodes { try children.start("dn\(index)", "datanode") }
            let settings = try await Settings(file: layout.file("s3g1"), overrides: overrides)
            let runtime = try Runtime(name: "up", memory: .none, reactors: 1)
            try await becomeReady(
                try Roles.client(settings, runtime), layout, children, until: stop)
            try children.start("s3g1", "s3gateway")
            let port = try await children.port(of: "s3g1", label: "s3gateway")
            announce(layout, s3Port: port)
            try await add(joining, layout, runtime)
        } catch {
            await children.stop()
            throw error
        }
        await stop.wait()
        await children.stop()
    }

    /// Waits until blocks can be written, and sees that there is a first user and a file with its
    /// keys.
    private func becomeReady(
        _ client: ClusterClient, _ layout: ClusterLayout, _ children: Children? = nil,
        until stop: StopRequest
    ) async throws {
        let start = ContinuousClock.now
        var request = SCMStatusRequest()
        request.nodes = true
        while true {
            var reason = "SCM does not answer"
            do throws(StoreError) {
                let status = try await client.scm.status(request)
                let healthy = status.nodes.count { $0.state == .healthy }
                if !status.isInSafeMode, healthy >= datanodes { break }
                reason =
                    status.isInSafeMode
                    ? "safe mode: \(status.safeModeReason)"
                    : "\(healthy) of \(datanodes) datanodes are there"
            } catch {
                reason = error.description
            }
            if let dead = children?.firstDead() {
                throw StoreError(
                    .unavailable, "\(dead) ended; its log is \(layout.log(dead))")
            }
            guard !stop.isMade else {
                throw StoreError(.cancelled, "stopped before the cluster was there: \(reason)")
            }
            guard start.duration(to: .now) < .seconds(60) else {
                throw StoreError(.notReady, "the cluster did not come up in 60 s: \(reason)")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        var admin: UserInfo?
        while admin == nil {
            do throws(StoreError) {
                admin = try await client.users().first { $0.name == Users.firstName }
                if admin == nil {
                    try await client.createUser(Users.make(Users.firstName, administrator: true))
                }
            } catch {
                guard error.code == .connection || error.code == .notReady,
                    start.duration(to: .now) < .seconds(60)
                else { throw error }
                try await Task.sleep(for: .milliseconds(50))
            }
        }
        try Users.writeCredentials(admin!, to: layout.credentials)
    }

    private func announce(_ layout: ClusterLayout, s3Port: Int) {
        let url = "http://\(layout.s3Host):\(s3Port)"
        print(
            "ready s3=\(url) credentials=\(layout.credentials) recon=none metrics=\(layout.metrics("*"))"
        )
        print(
            """
            Store and fetch a file (in another terminal):
              export AWS_SHARED_CREDENTIALS_FILE=\(layout.credentials) AWS_ENDPOINT_URL=\(url) AWS_DEFAULT_REGION=us-east-1
              aws s3 mb s3://demo && aws s3 cp /etc/services s3://demo/services
              aws s3 cp s3://demo/services - | head -3
            """)
        // Whoever reads this through a pipe waits for it.
        fflush(nil)
    }
}

/// Users as the command line makes them.
enum Users {
    /// The administrator that `up` creates.
    static let firstName = "admin"

    static func make(_ name: String, displayName: String? = nil, administrator: Bool) -> UserInfo {
        func random(_ count: Int, of alphabet: String) -> String {
            let letters = Array(alphabet)
            return String((0..<count).map { _ in letters[Int.random(in: 0..<letters.count)] })
        }
        let upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
        let canonical = SHA256.hash(data: Data("apus user \(name) \(UUID())".utf8))
        return UserInfo(
            name: name, accessKeyID: "APUS" + random(16, of: upper),
            secretAccessKey: random(40, of: upper.lowercased() + upper + "0189"),
            canonicalID: canonical.map { String(format: "%02x", $0) }.joined(),
            displayName: displayName ?? name, isAdministrator: administrator)
    }

    /// Writes a file in the AWS credentials format, readable by its owner alone.
    static func writeCredentials(_ user: UserInfo, to path: String) throws(StoreError) {
        let text = """
            [default]
            aws_access_key_id = \(user.accessKeyID)
            aws_secret_access_key = \(user.secretAccessKey)

            """
        try DurableFile.replace(path, with: Data(text.utf8), mode: 0o600)
    }
}
