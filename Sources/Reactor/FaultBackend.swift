import Glibc

/// A backend over another one that injects the faults an injector decides on.
struct FaultBackend<Base: IOBackend & ~Copyable>: IOBackend, ~Copyable {
    private var base: Base
    private let injector: FaultInjector
    /// Operations whose completion the injector must hear of, by the continuation that waits.
    private var watched: [UInt64: IORequest.Operation] = [:]
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
            if case .accept = request.operation, let error = injector.judgeAccept() {
                answer(request, -error, &completed)
                continue
            }
            if request.operation.isOutsideOfFaults {
                forward(request, &completed)
                continue
            }
            switch injector.judge(request.operation) {
            case .pass: begin(request, &completed)
            case .fail(let code): answer(request, code, &completed)
            case .skip: answer(request, 0, &completed)
            case .shorten(let length):
                var shorter = request
                shorter.operation.shorten(to: length)
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
                } else if injector.holds(request.operation) {
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
        injector.willPerform(request.operation)
        if request.userData != IOCompletion.ignored {
            switch request.operation {
            case .open, .synchronizeDirectory, .synchronize, .write(_, isDurable: true):
                watched[request.userData] = request.operation
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
            guard let operation = watched.removeValue(forKey: completed[index].userData) else {
                continue
            }
            guard completed[index].result >= 0 else { continue }
            if case .open(let path, _, _) = operation {
                injector.didOpen(completed[index].result, path: String(cString: path))
            } else if injector.hasCrashed {
                // The power went while the sync ran: its caller must not hear of success.
                completed[index].result = -EIO
            } else {
                injector.didSynchronize(operation)
            }
        }
    }
}

extension IORequest.Operation {
    /// Closing and the ring's tables are no business of a disk.
    fileprivate var isOutsideOfFaults: Bool {
        switch self {
        case .close, .closeSocket, .call, .register, .unregister, .accept, .connect, .receive,
            .send, .receiveMessage, .endInterval:
            true
        default: false
        }
    }
}
