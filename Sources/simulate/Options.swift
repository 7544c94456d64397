import Simulator

/// What is wrong with the arguments. The text names what would be right.
struct UsageError: Error {
    var message: String
}

/// The arguments of the program.
struct Options {
    static let usage = """
        Runs clusters from seeds until a property of Raft does not hold, or until stopped.

        simulate [--from SEED] [--seeds COUNT] [--minutes COUNT] [--long] [--members]
                 [--paper] [--mutation NAME]
        simulate --driver [--from SEED] [--seeds COUNT] [--minutes COUNT] [--long]
        simulate --driver --seed SEED [--trace] [--long] [--check]
        simulate --seed SEED [--trace] [--long] [--members] [--paper] [--mutation NAME]

          --driver         the members that serve, with log, tables and sessions, on simulated
                           machines; without it the core of Raft alone
          --check          run the seed twice, and compare; the digest that is printed is to be the
                           same in another process
          --from SEED      the first seed; without it one by chance
          --seeds COUNT    stop after so many seeds
          --minutes COUNT  stop after so many minutes
          --seed SEED      run this seed alone
          --trace          print each event
          --long           faults of minutes rather than seconds of simulated time
          --members        put changes of members first
          --paper          check what the thesis promises and clients see, nothing else
          --mutation NAME  put in a defect:
                           \(Mutation.allCases.map(\.rawValue).joined(separator: ", "))
        """

    var seed: UInt64?
    var first: UInt64?
    var count: UInt64?
    var minutes: Double?
    var isTraced = false
    var isOfDriver = false
    var isChecked = false
    var length = RunLength.short
    var properties = Set(Property.allCases)
    var mutation: Mutation?
    var isConcentrated = false

    /// Reads the arguments.
    init(_ arguments: [String]) throws(UsageError) {
        var rest = arguments[...]
        while let name = rest.popFirst() {
            switch name {
            case "--trace": isTraced = true
            case "--driver": isOfDriver = true
            case "--check": isChecked = true
            case "--long": length = .long
            case "--members": isConcentrated = true
            case "--paper": properties = Property.paper
            case "--seed": seed = try Self.number(name, rest.popFirst())
            case "--from": first = try Self.number(name, rest.popFirst())
            case "--seeds": count = try Self.number(name, rest.popFirst())
            case "--minutes": minutes = try Self.number(name, rest.popFirst())
            case "--mutation":
                let value = rest.popFirst() ?? ""
                guard let mutation = Mutation(rawValue: value) else {
                    throw UsageError(message: "there is no mutation '\(value)'")
                }
                self.mutation = mutation
            default: throw UsageError(message: "there is no option \(name)")
            }
        }
        if isOfDriver, mutation != nil || isConcentrated || properties != Set(Property.allCases) {
            throw UsageError(
                message: "--members, --paper and --mutation are of the core: leave out --driver")
        }
        if isChecked, !isOfDriver || seed == nil {
            throw UsageError(
                message: "--check compares two runs of one seed of the members that serve: add "
                    + "--driver and --seed")
        }
        if isTraced, seed == nil {
            throw UsageError(message: "--trace prints one run: name it by --seed")
        }
    }

    private static func number<Number: LosslessStringConvertible>(
        _ name: String, _ text: String?
    ) throws(UsageError) -> Number {
        guard let text, let number = Number(text) else {
            throw UsageError(message: "\(name) needs a number, not '\(text ?? "")'")
        }
        return number
    }
}
