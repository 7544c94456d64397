extension RaftCore {
    private var isAsync: Bool { configuration.asyncStorageWrites }

    /// With asynchronous writes, only entries that are durable here are applied.
    private var allowsUnstable: Bool { !isAsync }

    /// Whether ``ready()`` has anything to say. Mutating although it changes nothing: a getter
    /// would be given a copy of the whole core, and this is asked after every tick.
    mutating func checkReady() -> Bool {
        if !messages.isEmpty || !messagesAfterAppend.isEmpty { return true }
        if softState != previousSoftState || hardState != previousHardState {
            return true
        }
        return log.unstable.hasNextEntries || log.unstable.hasNextSnapshot
            || log.hasNextCommitted(allowUnstable: allowsUnstable)
            || !readStates.isEmpty
    }

    /// What is to be done now. It must all be done, in the order that ``Ready`` tells.
    ///
    /// - Precondition: with synchronous writes, the one before was followed by ``advance()``.
    mutating func ready() -> Ready {
        precondition(stepsOnAdvance.isEmpty, "the last Ready was not advanced")
        var ready = Ready()
        ready.entries = log.unstable.nextEntries
        ready.committedEntries = log.nextCommitted(allowUnstable: allowsUnstable)
        swap(&ready.messages, &messages)
        swap(&ready.readStates, &readStates)
        let softState = softState
        if softState != previousSoftState {
            ready.softState = softState
            previousSoftState = softState
        }
        let hardState = hardState
        if hardState != previousHardState { ready.hardState = hardState }
        ready.mustSync =
            !ready.entries.isEmpty || hardState.term != previousHardState.term
            || hardState.vote != previousHardState.vote
        previousHardState = hardState
        if log.unstable.hasNextSnapshot { ready.snapshot = log.unstable.snapshot }
        if isAsync {
            addStorageMessages(to: &ready)
        } else {
            queueSteps(&ready)
        }
        messagesAfterAppend.removeAll(keepingCapacity: true)
        log.unstable.accept()
        if let last = ready.committedEntries.last {
            log.acceptApplying(
                to: last.index, size: ready.committedEntries.totalSize,
                allowUnstable: allowsUnstable)
        }
        return ready
    }

    /// The work of the last Ready is done: written, sent and applied.
    ///
    /// - Precondition: writes are synchronous.
    mutating func advance() {
        precondition(!isAsync, "with asynchronous storage writes there is nothing to advance")
        var steps: [Message] = []
        swap(&steps, &stepsOnAdvance)
        for message in steps {
            do {
                try step(message)
            } catch {
                preconditionFailure("a \(message.kind) was refused: \(error)")
            }
        }
    }

    /// Synchronous writes: messages that depend on them leave with the rest, since the driver
    /// sends after it has written; those to this member are stepped on advance.
    private mutating func queueSteps(_ ready: inout Ready) {
        for message in messagesAfterAppend {
            if message.to == id {
                stepsOnAdvance.append(message)
            } else {
                ready.messages.append(message)
            }
        }
        if needsAppendResponse(ready) { stepsOnAdvance.append(storageAppendResponse(ready)) }
        if !ready.committedEntries.isEmpty {
            stepsOnAdvance.append(storageApplyResponse(ready.committedEntries))
        }
    }

    /// Asynchronous writes: what is to be written goes to the append thread with the messages
    /// that depend on it, what is to be applied to the apply thread.
    private func addStorageMessages(to ready: inout Ready) {
        if !ready.entries.isEmpty || ready.hardState != nil || ready.snapshot != nil
            || !messagesAfterAppend.isEmpty
        {
            var append = Message(
                .storageAppend, to: .appendThread, from: id, entries: ready.entries,
                snapshot: ready.snapshot, responses: messagesAfterAppend)
            if let state = ready.hardState {
                append.term = state.term
                append.vote = state.vote
                append.commit = state.commit
            }
            // After the acknowledgements to this member itself, which read terms that are
            // dropped from memory by this one.
            if needsAppendResponse(ready) {
                append.responses.append(storageAppendResponse(ready))
            }
            ready.messages.append(append)
        }
        if !ready.committedEntries.isEmpty {
            ready.messages.append(
                Message(
                    .storageApply, to: .applyThread, from: id,
                    entries: ready.committedEntries,
                    responses: [storageApplyResponse(ready.committedEntries)]))
        }
    }

    private func needsAppendResponse(_ ready: Ready) -> Bool {
        log.unstable.count > 0 || ready.snapshot != nil
    }

    /// The word that everything handed out up to now is durable.
    ///
    /// It names the log's last entry, and the term in which it was written. A member may write
    /// entries, replace them in a later term, and replace those by the first again, all before
    /// the first write is done: its word must not be taken for that of the third, or the log
    /// would be read from the medium while the second is there. So it counts only in the term it
    /// was written in, for within one term nothing is replaced twice. And since words of earlier
    /// terms are ignored, each write repeats the log's end as long as anything is unstable, not
    /// only one that has entries: the write of a new term always comes.
    private func storageAppendResponse(_ ready: Ready) -> Message {
        var response = Message(
            .storageAppendResponse, to: id, from: .appendThread, term: term,
            snapshot: ready.snapshot)
        if log.unstable.count > 0 {
            response.index = log.lastIndex
            response.logTerm = log.lastTerm
        }
        return response
    }

    private func storageApplyResponse(_ entries: [Entry]) -> Message {
        Message(.storageApplyResponse, to: id, from: .applyThread, entries: entries)
    }
}
