import CLinux
import Glibc
import Synchronization

/// What happens to the disks of a reactor from outside its thread.
enum DiskChange {
    case add(Disk)
    case set(Disk, DiskSettings)
    case suspend(Disk, Bool)
    case remove(Disk)
}

/// The numbers of a reactor's disks, 1…4096.
struct DiskNumbers {
    private var next = 1
    private var free: [Int] = []

    mutating func take() -> Int {
        if let number = free.popLast() { return number }
        precondition(next <= Disk.Limits.disksPerReactor, "too many disks on one reactor")
        defer { next += 1 }
        return next
    }

    mutating func giveBack(_ number: Int) { free.append(number) }
}

/// The time at which a reactor looked for completions, read when it is first asked for. Each who
/// asks gets a nanosecond more than the one before, so that it also tells them apart.
struct TurnClock {
    private var time: UInt64 = 0

    mutating func reset() { time = 0 }

    mutating func now(on reactor: Reactor) -> UInt64 {
        time = time == 0 ? reactor.now().nanoseconds : time + 1
        return time
    }
}

extension IOCompletion {
    /// Of an operation that went through a disk: its `userData` is the slot, the disk's number
    /// (15 bits) and a one. A continuation's bits are those of a task's address, which is even.
    @inline(__always)
    var isOfDisk: Bool { userData & 1 != 0 }
}

extension Reactor {
    func change(_ change: DiskChange) {
        if isCurrent {
            apply([change])
        } else {
            post { $0.diskChanges.append(change) }
        }
    }

    /// Starts an operation in this turn, unless its disk makes it wait. On the reactor's thread.
    @inline(__always)
    func admit(_ request: IORequest) {
        if request.disk == 0 {
            local.requests.append(request)
        } else {
            admitToDisk(request)
        }
    }

    private func admitToDisk(_ request: IORequest) {
        let number = Int(request.disk)
        guard number < local.disks.count, let disk = local.disks[number] else {
            var request = request
            if !request.wasPutBack {
                // Made by another thread whose word of it is still in the inbox: go behind it.
                request.wasPutBack = true
                post { $0.requests.append(request) }
            } else {
                // The disk was closed.
                request.disk = 0
                local.requests.append(request)
            }
            return
        }
        switch disk.submit(request) {
        case .start(let started):
            local.requests.append(started)
            local.newDiskRequests += 1
        case .wait: break
        case .refuse:
            local.completed.append(
                IOCompletion(userData: request.userData, result: disk.refusal))
        case .expire: endExpired(of: disk)
        }
    }

    /// Ends the operations of `disk` whose deadlines have passed before their turn.
    @inline(__always)
    private func endExpired(of disk: Disk) {
        guard !disk.expired.isEmpty else { return }
        for userData in disk.takeExpired() {
            local.completed.append(
                IOCompletion(userData: userData, result: -IOError.OwnCode.expired))
        }
    }

    /// Ends an operation of a disk. Returns the continuation that waits. On the reactor's thread.
    func finish(_ completion: IOCompletion) -> UInt64 {
        let number = Int(completion.userData >> 1 & 0x7FFF)
        guard number < local.disks.count, let disk = local.disks[number] else {
            preconditionFailure("an operation was in flight on disk \(number) when it was closed")
        }
        local.diskRequests -= 1
        precondition(local.diskRequests >= 0, "more operations of disks completed than were begun")
        let now = local.clock.now(on: self)
        let waiting = addingRequests { disk.complete(completion, now: now, requests: &$0) }
        endExpired(of: disk)
        disk.wakeLater()
        return waiting
    }

    /// Counts the operations of disks that `body` adds.
    private func addingRequests<Result>(_ body: (inout [IORequest]) -> Result) -> Result {
        let before = local.requests.count
        defer { local.newDiskRequests += local.requests.count - before }
        return body(&local.requests)
    }

    /// Starts what waits on `disk` and may start. On the reactor's thread.
    func startWaiting(of disk: Disk) {
        precondition(isCurrent, "a disk's queue belongs to its reactor's thread")
        addingRequests { disk.startWaiting(to: &$0) }
        endExpired(of: disk)
        disk.wakeLater()
    }

    /// Ends what has waited on `disk` beyond its deadline. On the reactor's thread.
    func expireWaiting(of disk: Disk) {
        precondition(isCurrent, "a disk's queue belongs to its reactor's thread")
        disk.expireWaiting()
        endExpired(of: disk)
        disk.wakeLater()
    }

    /// Carries out what was asked from elsewhere. On the reactor's thread.
    func apply(_ changes: [DiskChange]) {
        for change in changes {
            switch change {
            case .add(let disk):
                while local.disks.count <= disk.number { local.disks.append(nil) }
                precondition(local.disks[disk.number] == nil, "a disk's number was given twice")
                local.disks[disk.number] = disk
            case .set(let disk, let settings):
                addingRequests { disk.apply(settings, to: &$0) }
                endExpired(of: disk)
                disk.wakeLater()
            case .suspend(let disk, let isSuspended):
                for request in disk.apply(isSuspended: isSuspended) {
                    local.completed.append(
                        IOCompletion(userData: request.userData, result: disk.refusal))
                }
            case .remove(let disk):
                // One in use keeps its number: its completions are still to come.
                guard disk.isIdle, local.disks[disk.number] === disk else { continue }
                local.disks[disk.number] = nil
                diskNumbers.withLock { $0.giveBack(disk.number) }
            }
        }
    }
}
