import Bytes
import Checksum
import ContainerFormat
import Model
import Reactor
import Synchronization

// What is on disk beside the cells of a closed replica: the header of its data file, footer, table
// and pages of its index (`ClosedCache`), and its journal. Reads need the index alone, and find it in
// memory as a rule; so the others rot unseen, unless somebody looks.

extension Container {
    /// Whether the data file begins with the header that it was made with.
    func hasSoundHeader(_ file: File, for context: IOContext) async throws(StoreError) -> Bool {
        let bytes: [UInt8]
        do throws(IOError) {
            bytes = try await volume.read(file, 0..<ContainerHeader.size, for: context)
        } catch {
            guard error.kind == .disk else { throw volume.refusal(for: error) }
            return false
        }
        let found = try? bytes.withParsed { (bytes) throws(FormatError) in
            try ContainerHeader(parsing: bytes, of: .data)
        }
        return found == header
    }

    /// What the journal of a closed replica says on disk; nil: it does not say all that is known
    /// here. Precondition: nobody writes to it, for it is held (`holdJournal`).
    func soundJournal() async throws(StoreError) -> Journal.Contents? {
        let journal: Volume.JournalFile
        do throws(IOError) { journal = try await volume.readJournal(of: id) } catch {
            // What passes says nothing about the file, nor does a volume that is out.
            if error.isPassing { throw volume.refusal(for: error) }
            try volume.check()
            return nil
        }
        let parsed = try? journal.bytes?.withParsed { (bytes) throws(FormatError) in
            try Journal.parse(bytes)
        }
        guard let parsed, parsed.header == header, parsed.damagedAt == nil,
            // In memory it is known where it ends: what is cut short was not cut by a crash.
            parsed.end == state.withLock({ $0.writtenTo })
        else { return nil }
        return parsed
    }

    /// Keeps the committer's hands off the journal of a closed replica, if nothing is on its way to
    /// it. To be ended by `releaseJournal`.
    /// - Parameter waits: until nothing is.
    func holdJournal(waits: Bool) async throws(StoreError) -> Bool {
        while true {
            if waits { await untilIdle() }
            let isHeld = state.withLock { state -> Result<Bool, StoreError> in
                if state.isClosed, state.journalTrouble == .unwritten {
                    return .failure(
                        StoreError(
                            .overloaded,
                            "\(name): its journal is being brought in order; ask again"))
                }
                guard state.isClosed, !state.isJournalBroken || state.journalTrouble == .rotten
                else {
                    return .failure(
                        StoreError(
                            .containerState,
                            "\(name) is \(state.phase), and its journal is not in order"))
                }
                guard state.isIdle else { return .success(false) }
                state.isJournalHeld = true
                return .success(true)
            }
            let found = try isHeld.get()
            if found || !waits { return found }
            do throws(CancellationError) {
                try await volume.reactor.sleep(for: ContainerStore.Limits.roundPause)
            } catch { throw StoreError(.cancelled, "\(name): the work on it was ended") }
        }
    }

    /// Ends `holdJournal`: what came meanwhile is written, and whoever waits for quiet is told.
    func releaseJournal() {
        state.withLock { $0.isJournalHeld = false }
        volume.committer.add(self)
        wakeIdle()
    }

    /// Reads header and journal of a closed replica, and marks it as damaged if they are. Where
    /// something is on its way to the journal it is left for the next time.
    /// - Returns: what is wrong, if anything.
    func damageBesideCells(_ file: File) async throws(StoreError) -> String? {
        guard try await hasSoundHeader(file, for: .scrub) else {
            let text = "\(name): the header of its data file is damaged"
            markDamaged(text)
            return text
        }
        guard !state.withLock({ $0.isJournalBroken }), try await holdJournal(waits: false) else {
            return nil
        }
        defer { releaseJournal() }
        guard try await soundJournal() == nil else { return nil }
        let text = "\(name): its journal is damaged"
        markRotten(text)
        return text
    }

    /// Adds nothing more to the journal, which is damaged on disk while all that it is to say is known
    /// here: what is added behind would not be found again. Who waits for a record is told.
    func markRotten(_ text: String) {
        let waiters = state.withLock { state in
            state.journalTrouble = .rotten
            state.suspicion.add(nil)
            if state.damage == nil { state.damage = text }
            return state.takeExtraWaiters()
        }
        for waiter in waiters {
            waiter.resume(returning: .failure(StoreError(.containerState, text)))
        }
        wakeIdle()
    }
}
