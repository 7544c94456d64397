import Bytes
import ContainerFormat
import Glibc
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
// `containers`. Bounded in bytes and in age; on a full volume nothing is kept, but for replicas that
// are being rebuilt. That it cannot be done takes nothing else from the volume.

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
        let suffix = name.drop { $0 != "." }
        guard kind == .bytes ? suffix.isEmpty : suffix == ".data" || suffix == ".journal" else {
            return nil
        }
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
    /// have their place; where there is no room all, but for the replicas of containers that are being
    /// `rebuilt`: until that is done they may be all that there is of something.
    static func superfluous(
        _ files: [Self], adding: Int = 0, isFull: Bool, rebuilt: Set<ContainerID> = [],
        at now: Int64
    ) -> [Self] {
        if isFull {
            return files.filter {
                $0.kind == .bytes || !rebuilt.contains($0.container) || $0.isTooOld(at: now)
            }
        }
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

    /// Finds what earlier runs have kept. That it cannot be found is a problem, and no reason to do
    /// without the volume.
    func loadKept() async {
        do throws(IOError) {
            guard try await reactor.status(keptPath, disk: disk) != nil else { return }
            var found: [KeptFile] = []
            for name in try await reactor.list(keptPath, disk: disk) {
                let size =
                    try await reactor.status("\(keptPath)/\(name)", disk: disk)?.allocated ?? 0
                if let file = KeptFile(name: name, size: size) {
                    found.append(file)
                } else if name.hasSuffix(".new") {
                    // A crash left it.
                    try await reactor.remove("\(keptPath)/\(name)", disk: disk)
                }
            }
            addUsed(found.reduce(0) { $0 + $1.size })
            withState { [found] in $0.kept = found }
        } catch {
            noteProblem(keptPath, "what is kept there is not known (\(error.description))")
        }
    }

    /// Keeps bad bytes that are to be replaced, as far as there is room. That it cannot be done is no
    /// reason not to heal.
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
            addKept(file)
        } catch { noteUnkept(error) }
    }

    /// Notes that something could not be kept, or what is kept not be removed.
    private func noteUnkept(_ error: IOError) {
        if error.kind == .full { return noteFull() }
        if error.isPassing { return }
        noteProblem(keptPath, "nothing can be kept there, or removed (\(error.description))")
    }

    /// Makes the folder in which things are kept. Throws where that cannot be done, and the volume goes
    /// on.
    func makeKeptFolder() async throws(StoreError) {
        do throws(IOError) {
            try await reactor.makeDirectory(keptPath, disk: disk)
            guard try await reactor.status(keptPath, disk: disk)?.isDirectory == true else {
                throw IOError(code: ENOTDIR, operation: "mkdir", path: keptPath)
            }
        } catch { throw unmovable(error) }
    }

    /// What to tell of a replica that could not be moved aside.
    private func unmovable(_ error: IOError) -> StoreError {
        noteUnkept(error)
        if error.isPassing || error.kind == .full { return refusal(for: error) }
        return StoreError(.io, "a replica cannot be moved aside: \(error.description)")
    }

    /// Moves the files of a replica aside, durably: nothing of it counts any more. Where that cannot be
    /// done it is thrown, and the volume goes on.
    ///
    /// The data file first: should a crash come in between, the journal that is left tells of a replica
    /// without data, which is damaged as before, and is moved aside by the next try.
    func moveAside(_ id: ContainerID, index: Int) async throws(StoreError) {
        let base = "replica-\(id.rawValue)-\(index)-\(now)"
        try await makeKeptFolder()
        for (from, suffix) in [(dataPath(id), ".data"), (journalPath(id), ".journal")] {
            let allocated: Int
            do throws(IOError) {
                guard let found = try await reactor.status(from, disk: disk) else { continue }
                try await reactor.rename(from, to: "\(keptPath)/\(base)\(suffix)", disk: disk)
                allocated = found.allocated
            } catch { throw unmovable(error) }
            if let file = KeptFile(name: base + suffix, size: allocated) { addKept(file) }
            try await changing { () async throws(IOError) in
                try await reactor.synchronizeDirectory(containersPath, disk: disk)
            }
        }
        do throws(IOError) {
            try await reactor.synchronizeDirectory(keptPath, disk: disk)
            try await reactor.synchronizeDirectory(path, disk: disk)
        } catch { noteUnkept(error) }
    }

    /// Whether the files of a replica that could not be opened are of a later program's. Throws where they
    /// cannot be read now, for then they may be.
    func isOfLaterVersion(_ id: ContainerID) async throws(StoreError) -> Bool {
        do throws(IOError) {
            guard try await reactor.status(journalPath(id), disk: disk) != nil else { return false }
        } catch { throw unreadable(id, error) }
        let bytes = try await journal(of: id).bytes
        do throws(FormatError) {
            let parsed = try bytes.withParsed { (bytes) throws(FormatError) in
                try Journal.parse(bytes)
            }
            var contents = ContainerContents()
            for record in parsed.records { try contents.apply(record) }
            return false
        } catch { return error.isVersion }
    }

    /// Removes what was kept for long enough, or has no place beside `adding` more bytes. To be called
    /// now and then; looks at nothing but memory where there is nothing to do.
    func removeSuperfluous(adding: Int = 0) async {
        let time = now
        await remove(
            withState { KeptFile.superfluous($0.kept, adding: adding, isFull: false, at: time) })
    }

    /// What may be removed because there is too little room for what the volume is for.
    private var removable: [KeptFile] {
        let (kept, isRebuilding) = withState { ($0.kept, $0.isRebuilding) }
        if kept.isEmpty { return [] }
        let replicas = Set(kept.filter { $0.kind == .replica }.map(\.container))
        return KeptFile.superfluous(
            kept, isFull: true, rebuilt: replicas.filter { isRebuilding?($0) ?? false }, at: now)
    }

    /// Whether `makeRoom` would do anything.
    var mayMakeRoom: Bool { !removable.isEmpty }

    /// Removes what is kept. Returns whether anything has gone.
    func makeRoom() async -> Bool { await remove(removable) > 0 }

    /// Removes kept files; what does not exist has gone as well. What cannot be removed is forgotten until
    /// the next start, unless the reason passes. Returns how many have gone.
    @discardableResult
    private func remove(_ files: [KeptFile]) async -> Int {
        var count = 0
        for file in files where outage == nil {
            do throws(IOError) {
                try await reactor.remove("\(keptPath)/\(file.name)", disk: disk)
            } catch {
                if error.isPassing { continue }
                if error.kind != .absent {
                    noteUnkept(error)
                    withState { $0.kept.removeAll { $0.name == file.name } }
                    continue
                }
            }
            count += 1
            // Somebody else may have removed it at the same time.
            let known = withState { state in
                defer { state.kept.removeAll { $0.name == file.name } }
                return state.kept.first { $0.name == file.name }
            }
            if let known { addUsed(-known.size) }
        }
        return count
    }

    private func addKept(_ file: KeptFile) {
        let before = withState { state in
            defer {
                state.kept.removeAll { $0.name == file.name }
                state.kept.append(file)
            }
            return state.kept.first { $0.name == file.name }?.size ?? 0
        }
        addUsed(file.size - before)
    }
}
