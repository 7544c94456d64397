import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization

extension Container {
    /// Makes the files of a new, empty container, durably, and opens it. The naming of the journal
    /// is the moment of creation; the data file gets its name after that, if need be at the next
    /// start. So a data file without a journal is never a trace of a creation.
    /// - Parameter recovery: of one that is to be rebuilt: the order, and blocks that it is never to
    ///   take. Its journal has these records when it gets its name, so that it is never seen as
    ///   anything else.
    static func create(
        _ header: ContainerHeader, on volume: Volume,
        recovery: (token: UInt64, deleted: Set<UInt64>)? = nil
    ) async throws(StoreError) -> Container {
        let id = header.containerID
        let container = Container(
            header: header, volume: volume, state: ContainerState(journal: .init(.init(header))))
        do throws(StoreError) { try await container.makeFiles(recovery) } catch {
            // What got a name would be there after the next start, beside what is made elsewhere.
            let charged = container.state.withLock { $0.charged }
            container.charge(-charged)
            container.journalWriter.letGo()
            guard volume.failure == nil else { throw error }
            do throws(StoreError) { try await volume.removeContainer(id) } catch {
                volume.noteProblem(
                    volume.dataPath(id), "a creation that failed left it (\(error.message))")
            }
            throw error
        }
        return container
    }

    private func makeFiles(
        _ recovery: (token: UInt64, deleted: Set<UInt64>)?
    ) async throws(StoreError) {
        let extent = volume.options.extentBytes
        let path = volume.dataPath(id)
        try await volume.changing { () async throws(IOError) in
            let reactor = volume.reactor
            let new = try await File.open(
                path + ".new", [.read, .write, .create, .truncate, .direct], on: reactor,
                disk: volume.disk)
            try await new.write(
                Payload(copying: header.encoded(for: .data), pool: reactor.pool), at: 0)
            do throws(IOError) { try await new.allocate(0..<extent) } catch {
                if error.kind != .unsupported { throw error }
            }
            try await new.synchronize()
            try await new.close()
            var records: [JournalRecord] = []
            if let recovery {
                records.append(.recovering(token: recovery.token))
                records += recovery.deleted.map { .deleted(localID: $0, length: 0, extents: []) }
                records.append(.mark)
            }
            let tail = try await replaceJournal(records, isToGrow: true)
            try await reactor.rename(path + ".new", to: path, disk: volume.disk)
            try await reactor.synchronizeDirectory(volume.containersPath, disk: volume.disk)
            let data = try await File.open(
                path, [.read, .write, .direct], on: reactor, disk: volume.disk)
            _ = try await journalWriter.open()
            state.withLock { state in
                state.dataFile = data
                state.journal = tail
                state.writtenTo = tail.end
                state.allocatedTo = extent
                if let recovery {
                    state.phase = .recovering
                    state.recovery = recovery.token
                    state.deleted = recovery.deleted
                }
            }
        }
        charge(extent)
    }

    /// Opens the replica with `id` from its files: replays the journal, cuts a torn tail, and
    /// finishes deletions. Damage makes it unhealthy; only I/O errors and files that are no
    /// container's throw.
    static func open(_ id: ContainerID, on volume: Volume) async throws(StoreError) -> Container {
        let (bytes, modifiedAt) = try await volume.journal(of: id)
        var parsed: Journal.Contents
        do throws(FormatError) {
            parsed = try bytes.withParsed { (bytes) throws(FormatError) in
                try Journal.parse(bytes)
            }
        } catch {
            throw StoreError(
                error.isVersion ? .versionMismatch : .corrupt,
                "container \(id): \(error.description)")
        }
        guard parsed.header.containerID == id else {
            throw StoreError(
                .corrupt, "the journal of container \(id) is that of \(parsed.header.containerID)")
        }
        if parsed.damagedAt == nil, let lost = try await volume.firstLostCell(parsed, of: id) {
            parsed.cut(before: lost)
        }
        var contents = ContainerContents()
        var damage: String?
        do throws(FormatError) {
            for record in parsed.records { try contents.apply(record) }
        } catch {
            if error.isVersion {
                throw StoreError(.versionMismatch, "container \(id): \(error.description)")
            }
            damage = error.description
        }
        if let place = parsed.damagedAt { damage = "its journal is damaged at byte \(place)" }
        let tail = bytes.withUnsafeBytes { JournalTail(parsed, of: $0) }
        var state = ContainerState(journal: tail)
        state.writtenTo = tail.end
        state.take(contents)
        if let damage {
            state.damage = damage
            state.journalTrouble = .damaged
        }
        let container = Container(
            header: parsed.header, volume: volume, state: state, foundAt: modifiedAt)
        try await container.openFiles(
            cutting: damage == nil ? parsed : nil, journalBytes: bytes.count, contents)
        return container
    }

    /// Opens the files. `parsed` is nil for a damaged replica, of which nothing is changed.
    private func openFiles(
        cutting parsed: Journal.Contents?, journalBytes: Int, _ contents: ContainerContents
    ) async throws(StoreError) {
        let reactor = volume.reactor
        var size = 0
        do throws(IOError) {
            size = try await reactor.status(volume.dataPath(id), disk: volume.disk)?.size ?? 0
        } catch { throw volume.unreadable(id, error) }
        let damage = try await dataDamage(size: size, contents)
        state.withLock { state in
            state.allocatedTo = size
            state.journalAheadTo = DataFile.aligned(journalBytes)
            if let damage, state.damage == nil {
                state.damage = damage
                state.journalTrouble = .damaged
            }
        }
        charge(size + journalBytes)
        guard let parsed, damage == nil else { return }
        try await volume.changing { () async throws(IOError) in
            if parsed.hasTornTail { try await cutTail(of: state.withLock { $0.journal }) }
            if let closing = contents.closing {
                let end = closing.footerOffset + ContainerFooter.size
                guard size > end else { return }
                // The start before this one ended between closing and cutting.
                let data = try await File.open(
                    volume.dataPath(id), [.write], on: reactor, disk: volume.disk)
                try await data.truncate(to: end)
                state.withLock { $0.allocatedTo = end }
                charge(end - size)
            } else {
                _ = try await journalWriter.open()
            }
        }
    }

    /// Opens the data file of a replica that is not closed, and looks at its header and size.
    /// Returns what is wrong with it, if anything.
    private func dataDamage(
        size: Int, _ contents: ContainerContents
    ) async throws(StoreError) -> String? {
        let shortage =
            size < contents.tail
            ? "its data file has \(size) bytes where its journal needs \(contents.tail)" : nil
        guard contents.closing == nil, size > 0 else { return shortage }
        do throws(IOError) {
            let data = try await File.open(
                volume.dataPath(id), [.read, .write, .direct], on: volume.reactor, disk: volume.disk
            )
            let block = try await volume.read(data, 0..<ContainerHeader.size)
            state.withLock { $0.dataFile = data }
            let found = try? block.withParsed { (bytes) throws(FormatError) in
                try ContainerHeader(parsing: bytes, of: .data)
            }
            return found == header ? shortage : "the header of its data file is damaged"
        } catch {
            guard error.kind == .disk else { throw volume.unreadable(id, error) }
            return error.description
        }
    }

    /// Has the extents punched of blocks whose deletion was recorded but perhaps not carried out.
    func finishDeletions() {
        let unpunched = state.withLock { state in
            defer { state.unpunched = [:] }
            return state.isJournalBroken ? [:] : state.unpunched
        }
        volume.reclaimer.add(
            self,
            unpunched.sorted { $0.key < $1.key }
                .map { (localID: $0.key, extents: $0.value.extents) })
    }

    /// Ends the use of the files in order: everything acknowledged is marked as such.
    func shut() async throws(StoreError) {
        await untilIdle()
        if volume.options.durability == .writeback, needsProof { await prove() }
        let isMarked = state.withLock { state in
            !state.needsMark || state.isJournalBroken || state.phase == .deleted
        }
        if !isMarked { try await commit([.mark]) }
        await untilIdle()
        let files = state.withLock { state in
            defer {
                state.dataFile = nil
                state.phase = .deleted
            }
            return [state.dataFile, journalWriter.take()].compactMap { $0 }
        }
        for file in files {
            do throws(IOError) { try await file.close() } catch {
                volume.note(error)
                throw volume.refusal(for: error)
            }
        }
    }

    // MARK: Reports

    func report() -> ContainerReport? {
        state.withLock { state in
            var reported: ContainerReport.State
            switch state.phase {
            case .open: reported = state.fullness(volume.options) < 1 ? .open : .closing
            case .recovering, .closing: reported = .closing
            case .closed: reported = .closed
            case .deleted: return nil
            }
            if state.damage != nil { reported = .unhealthy }
            // Whatever is wrong with it: it is begun anew, and nobody misses it.
            if state.recovery != nil { reported = .recovering }
            if volume.outage != nil { reported = .lost }
            return ContainerReport(
                id: id, replication: header.replication, replicaIndex: header.replicaIndex,
                state: reported, usedBytes: state.usedBytes, blockCount: state.blockCount,
                recovery: state.recovery ?? 0, isLeaving: volume.isLeaving)
        }
    }
}

extension ContainerState {
    /// Takes what a journal told.
    mutating func take(_ contents: ContainerContents) {
        if let closing = contents.closing {
            phase = .closed(footerOffset: closing.footerOffset)
        }
        if let token = contents.recovery {
            phase = .recovering
            recovery = token
        }
        blocks = contents.blocks.mapValues { Block(entry: $0) }
        deleted = contents.deleted
        unpunched = contents.unpunched
        tail = contents.tail
        usedBytes = contents.usedBytes
        blockCount = contents.blockCount
        if contents.isUnhealthy {
            damage = "damage was found before the last start"
            suspicion.add(nil)
        }
    }
}

extension FormatError {
    var isVersion: Bool {
        switch self {
        case .unknownVersion, .unknownRecord, .unsupported: true
        default: false
        }
    }
}
