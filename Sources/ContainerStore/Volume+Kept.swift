import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization

// What was damaged and has been replaced is kept for a while below `damaged`, for people to look at:
//
//     damaged/bytes-CONTAINER-INDEX-BLOCK-OFFSET-MILLISECONDS     a note, then the bad bytes
//     damaged/replica-CONTAINER-INDEX-MILLISECONDS.data           files of a replica that could not
//     damaged/replica-CONTAINER-INDEX-MILLISECONDS.journal        be healed, and was rebuilt
//
// Nothing reads them but people, and nothing here is ever taken for a container: those lie in
// `containers`. Bounded in bytes and in age; on a full volume nothing is kept.

/// A file below a volume's `damaged`.
struct KeptFile: Hashable, Sendable {
    enum Kind: String, Sendable { case bytes, replica }

    enum Limits {
        /// Of bad bytes, on one volume.
        static let bytes = 64 << 20
        static let files = 4096
        /// Of bad bytes that the healing of one replica adds.
        static let bytesPerHeal = 16 << 20
        /// How long each is kept, in milliseconds.
        static let bytesAge: Int64 = 7 * 86_400_000
        static let replicaAge: Int64 = 86_400_000
    }

    var name: String
    var kind: Kind
    var container: ContainerID
    /// Milliseconds since 1970.
    var at: Int64
    var size: Int

    init?(name: String, size: Int) {
        let words = name.prefix { $0 != "." }.split(separator: "-")
        guard let first = words.first, let kind = Kind(rawValue: String(first)),
            words.count == (kind == .bytes ? 6 : 4), let number = UInt64(words[1]),
            let at = Int64(words[words.count - 1])
        else { return nil }
        self.name = name
        self.kind = kind
        container = ContainerID(number)
        self.at = at
        self.size = size
    }

    func isTooOld(at now: Int64) -> Bool {
        // What is of the future was named while the clock was wrong: it is as old as it is said to
        // be far.
        abs(now - at) > (kind == .bytes ? Limits.bytesAge : Limits.replicaAge)
    }

    /// Which of `files` are to go: those that are too old; of bad bytes the oldest until `adding` more
    /// have their place; all where there is no room.
    static func superfluous(
        _ files: [Self], adding: Int = 0, isFull: Bool, at now: Int64
    ) -> [Self] {
        if isFull { return files }
        var gone = files.filter { $0.isTooOld(at: now) }
        var left = files.filter { $0.kind == .bytes && !$0.isTooOld(at: now) }
            .sorted { ($0.at, $0.name) < ($1.at, $1.name) }[...]
        var bytes = left.reduce(adding) { $0 + $1.size }
        var count = left.count + (adding > 0 ? 1 : 0)
        while bytes > Limits.bytes || count > Limits.files, let oldest = left.popFirst() {
            bytes -= oldest.size
            count -= 1
            gone.append(oldest)
        }
        return gone
    }
}

extension Volume {
    var keptPath: String { path + "/damaged" }

    private var now: Int64 { options.clock().milliseconds }

    /// Containers of which bad bytes are kept, and when they were replaced last.
    var keptDamage: [ContainerID: Int64] {
        withState { state in
            Dictionary(state.kept.map { ($0.container, $0.at) }, uniquingKeysWith: max)
        }
    }

    /// Finds what earlier runs have kept.
    func loadKept() async throws(IOError) {
        guard try await reactor.status(keptPath, disk: disk) != nil else { return }
        var found: [KeptFile] = []
        for name in try await reactor.list(keptPath, disk: disk) {
            let size = try await reactor.status("\(keptPath)/\(name)", disk: disk)?.allocated ?? 0
            if let file = KeptFile(name: name, size: size) {
                found.append(file)
            } else if name.hasSuffix(".new") {
                // A crash left it.
                try await reactor.remove("\(keptPath)/\(name)", disk: disk)
            }
        }
        addUsed(found.reduce(0) { $0 + $1.size })
        withState { [found] in $0.kept = found }
    }

    /// Keeps bad bytes that are to be replaced, as far as there is room.
    func keep(_ bytes: [UInt8], _ note: DamageNote) async {
        var note = note
        note.at = Timestamp(milliseconds: now)
        let name =
            "bytes-\(note.block.containerID.rawValue)-\(note.replicaIndex)-\(note.block.localID)-"
            + "\(note.range.lowerBound)-\(note.at.milliseconds)"
        let content = note.encoded() + bytes
        guard let file = KeptFile(name: name, size: content.count), !withState({ $0.isFull }) else {
            return
        }
        await removeSuperfluous(adding: content.count)
        do throws(IOError) {
            try await reactor.makeDirectory(keptPath, disk: disk)
            try await reactor.replaceFile(
                "\(keptPath)/\(name)", with: content, disk: disk, for: .repair)
        } catch {
            // That it cannot be kept is no reason not to heal.
            self.note(error)
            return
        }
        addKept(file)
    }

    /// Moves the files of a replica aside, durably: nothing of it counts any more.
    ///
    /// The data file first: should a crash come in between, the journal that is left tells of a replica
    /// without data, which is damaged as before, and is moved aside by the next try.
    func moveAside(_ id: ContainerID, index: Int) async throws(StoreError) {
        let base = "replica-\(id.rawValue)-\(index)-\(now)"
        let moved = try await changing { () async throws(IOError) -> [KeptFile] in
            try await reactor.makeDirectory(keptPath, disk: disk)
            var moved: [KeptFile] = []
            for (from, suffix) in [(dataPath(id), ".data"), (journalPath(id), ".journal")] {
                guard let found = try await reactor.status(from, disk: disk) else { continue }
                try await reactor.rename(from, to: "\(keptPath)/\(base)\(suffix)", disk: disk)
                try await reactor.synchronizeDirectory(containersPath, disk: disk)
                if let file = KeptFile(name: base + suffix, size: found.allocated) {
                    moved.append(file)
                }
            }
            try await reactor.synchronizeDirectory(keptPath, disk: disk)
            try await reactor.synchronizeDirectory(path, disk: disk)
            return moved
        }
        for file in moved { addKept(file) }
    }

    /// Whether the files of a replica that could not be opened are of a later program's.
    func isOfLaterVersion(_ id: ContainerID) async throws(StoreError) -> Bool {
        let bytes: [UInt8]
        do throws(StoreError) { bytes = try await journalBytes(of: id) } catch {
            if error.code == .overloaded { throw error }
            return false
        }
        do throws(FormatError) {
            let parsed = try bytes.withParsed { (bytes) throws(FormatError) in
                try Journal.parse(bytes)
            }
            var contents = ContainerContents()
            for record in parsed.records { try contents.apply(record) }
            return false
        } catch { return error.isVersion }
    }

    /// Removes what was kept for long enough, or takes room that is wanted. To be called now and then;
    /// looks at nothing but memory where there is nothing to do.
    func removeSuperfluous(adding: Int = 0) async {
        let time = now
        let gone = withState { state in
            let gone = KeptFile.superfluous(
                state.kept, adding: adding, isFull: state.isFull, at: time)
            if !gone.isEmpty {
                let names = Set(gone.map(\.name))
                state.kept.removeAll { names.contains($0.name) }
            }
            return gone
        }
        for file in gone where failure == nil {
            do throws(IOError) {
                try await reactor.remove("\(keptPath)/\(file.name)", disk: disk)
                addUsed(-file.size)
            } catch {
                if error.kind != .absent { note(error) }
            }
        }
    }

    private func addKept(_ file: KeptFile) {
        withState { state in
            state.kept.removeAll { $0.name == file.name }
            state.kept.append(file)
        }
        addUsed(file.size)
    }
}
