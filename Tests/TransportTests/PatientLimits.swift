@testable import Transport

extension ServerLimits {
    /// For tests of everything else: on a busy machine a client may need long for its hello.
    static var patient: ServerLimits {
        var limits = ServerLimits()
        limits.helloTimeout = .seconds(600)
        limits.stallTimeout = .seconds(600)
        return limits
    }
}
