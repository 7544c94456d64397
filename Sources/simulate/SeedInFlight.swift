import Glibc
import Simulator
import Synchronization

/// The seed under way, so that it is known even if a signal ends the process: a precondition of what
/// is tested, most often.
enum SeedInFlight {
    private static let seed = Atomic<UInt64>(0)
    private static let isOfDriver = Atomic(false)
    private static let isLong = Atomic(false)
    private static let isConcentrated = Atomic(false)
    private static let isOfPaper = Atomic(false)

    static func set(_ value: UInt64) { seed.store(value, ordering: .relaxed) }

    /// Has a signal say which seed it was and how to see it again, before the process ends by it.
    static func reportOnTrap(_ options: Options) {
        isOfDriver.store(options.isOfDriver, ordering: .relaxed)
        isLong.store(options.length == .long, ordering: .relaxed)
        isConcentrated.store(options.isConcentrated, ordering: .relaxed)
        isOfPaper.store(options.properties == Property.paper, ordering: .relaxed)
        for number in [SIGILL, SIGTRAP, SIGSEGV, SIGABRT] {
            signal(number) { number in
                SeedInFlight.report(number)
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    /// Within a signal handler, so without allocation. A mutation is left out: who gave its name knows
    /// it.
    private static func report(_ signal: Int32) {
        let seed = seed.load(ordering: .relaxed)
        write("\nSeed ")
        write(seed)
        write(" ended the process by signal ")
        write(UInt64(signal))
        write("\nAgain: swift run -c release simulate --seed ")
        write(seed)
        write(" --trace")
        if isOfDriver.load(ordering: .relaxed) { write(" --driver") }
        if isLong.load(ordering: .relaxed) { write(" --long") }
        if isConcentrated.load(ordering: .relaxed) { write(" --members") }
        if isOfPaper.load(ordering: .relaxed) { write(" --paper") }
        write("\n")
    }

    private static func write(_ text: StaticString) {
        _ = Glibc.write(2, text.utf8Start, text.utf8CodeUnitCount)
    }

    private static func write(_ number: UInt64) {
        var digits: InlineArray<20, UInt8> = .init(repeating: 0)
        var first = 20
        var rest = number
        repeat {
            first -= 1
            digits[first] = 48 + UInt8(rest % 10)
            rest /= 10
        } while rest > 0
        for place in first..<20 {
            var digit = digits[place]
            _ = Glibc.write(2, &digit, 1)
        }
    }
}
