import Glibc
import Synchronization

/// The seed under way, so that it is known even if a precondition of what is tested ends the process.
enum SeedInFlight {
    private static let seed = Atomic<UInt64>(0)

    static func set(_ value: UInt64) { seed.store(value, ordering: .relaxed) }

    /// Has a trap say which seed it was, before the process ends by it.
    static func reportOnTrap() {
        for number in [SIGILL, SIGTRAP, SIGSEGV, SIGABRT] {
            signal(number) { number in
                SeedInFlight.write("\nThe code under test trapped at seed ")
                SeedInFlight.write(SeedInFlight.seed.load(ordering: .relaxed))
                SeedInFlight.write(": --seed SEED --trace shows the way there\n")
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    /// Without allocation: within a signal handler.
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
