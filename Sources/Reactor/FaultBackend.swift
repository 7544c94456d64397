import Glibc

/// A backend over another one that injects the faults an injector decides on.
struct FaultBackend<Base: IOBackend & ~Copyable>: IOBackend, ~Copyable {
    private struct Watched {
        var request: IORequest
        var path: String?
    }

    private var base: Base
    private let injector: FaultInjector
    /// Operations whose completion the injector must hear of, by the continuation that waits.
    private var watched: [UInt64: Watched] = [:]
    private var held: [(turns: Int, request: IORequest)] = []

    init(over base: consuming Base, injector: FaultInjector) {
        self.base = base
        self.injector = injector
    }

    var wakeDescriptor: Int32 { base.wakeDescriptor }
    var name: String { "faulty " + base.name }

    mutating func submit(
        _ requests: UnsafeBufferPointer<IORequest>, completed: inout [IOCompletion]
    ) {
        for request in requests {
            if request.opcode == .accept, let error = injector.judgeAccept() {
                answer(request, -error, &completed)
                continue
            }
            if request.isOutsideOfFaults {
                forward(request, &completed)
                continue
            }
            switch injector.judge(request) {
            case .pass: begin(request, &completed)
            case .fail(let code): answer(request, code, &completed)
            case .skip: answer(request, 0, &completed)
            case .shorten(let length):
                var shorter = request
                shorter.length = length
                begin(shorter, &completed)
            case .delay(let turns): held.append((turns, request))
            }
        }
    }

    mutating func reap(waiting nanoseconds: UInt64?, completed: inout [IOCompletion]) {
        if !held.isEmpty {
            let waiting = held
            held = []
            for (turns, request) in waiting {
                if injector.hasCrashed {
                    answer(request, -EIO, &completed)
                } else if injector.holds(request) {
                    held.append((turns, request))
                } else if turns <= 1 {
                    begin(request, &completed)
                } else {
                    held.append((turns - 1, request))
                }
            }
        }
        let first = completed.count
        let mayWait = held.isEmpty && completed.isEmpty
        base.reap(waiting: mayWait ? nanoseconds : 0, completed: &completed)
        observe(from: first, &completed)
    }

    private mutating func begin(_ request: IORequest, _ completed: inout [IOCompletion]) {
        injector.willPerform(request)
        if request.userData != IOCompletion.ignored {
            switch request.opcode {
            case .open, .synchronizeDirectory:
                watched[request.userData] = Watched(request: request, path: request.pathArgument)
            case .synchronize: watched[request.userData] = Watched(request: request, path: nil)
            case .write where request.isDurable:
                watched[request.userData] = Watched(request: request, path: nil)
            default: break
            }
        }
        forward(request, &completed)
    }

    private mutating func forward(_ request: IORequest, _ completed: inout [IOCompletion]) {
        let first = completed.count
        withUnsafePointer(to: request) { pointer in
            base.submit(UnsafeBufferPointer(start: pointer, count: 1), completed: &completed)
        }
        observe(from: first, &completed)
    }

    private func answer(
        _ request: IORequest, _ result: Int32, _ completed: inout [IOCompletion]
    ) {
        guard request.userData != IOCompletion.ignored else { return }
        completed.append(IOCompletion(userData: request.userData, result: result))
    }

    private mutating func observe(from first: Int, _ completed: inout [IOCompletion]) {
        guard !watched.isEmpty else { return }
        for index in first..<completed.count {
            guard let entry = watched.removeValue(forKey: completed[index].userData) else {
                continue
            }
            guard completed[index].result >= 0 else { continue }
            if entry.request.opcode == .open, let path = entry.path {
                injector.didOpen(completed[index].result, path: path)
            } else if injector.hasCrashed {
                // The power went while the sync ran: its caller must not hear of success.
                completed[index].result = -EIO
            } else {
                injector.didSynchronize(entry.request)
            }
        }
    }
}

extension IORequest {
    /// Closing and the ring's tables are no business of a disk.
    fileprivate var isOutsideOfFaults: Bool {
        switch opcode {
        case .close, .closeSocket, .call, .register, .unregister, .accept, .connect, .receive,
            .send,
            .receiveMessage, .endInterval:
            true
        default: false
        }
    }
}
