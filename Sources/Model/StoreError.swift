/// Why the store refused or failed, as a code for programs and a sentence for people.
///
/// Travels between the roles: the code is `code.rawValue`, the sentence goes along unchanged, as does the
/// hint.
public struct StoreError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: UInt16, Hashable, Sendable, CaseIterable {
        case noSuchUser = 1
        case userExists = 2
        case noSuchVolume = 3
        case volumeExists = 4
        case volumeNotEmpty = 5
        case noSuchBucket = 6
        /// The bucket exists and belongs to somebody else.
        case bucketExists = 7
        /// The bucket exists and belongs to the caller.
        case bucketOwnedByYou = 8
        case bucketNotEmpty = 9
        case noSuchKey = 10
        case noSuchUpload = 11
        case invalidPart = 12
        case invalidPartOrder = 13
        case partTooSmall = 14
        case preconditionFailed = 15
        /// Another writer changed the key between this one's open and commit (S3's 409).
        case conflict = 16
        case accessDenied = 17
        /// A name, size or option that can never be right; the message says what would be.
        case invalidArgument = 18
        /// The cluster cannot place this replication with the datanodes that it has.
        case cannotPlace = 19
        /// All places are taken for now: try again later.
        case overloaded = 20
        case noSpace = 21
        /// SCM or OM is in safe mode or not started yet: try again later.
        case notReady = 22
        /// More replicas lost than parity: bytes cannot be read (or written) now.
        case unavailable = 23
        case corrupt = 24
        case deadlineExceeded = 25
        case cancelled = 26
        /// The two ends speak different versions; the message has both.
        case versionMismatch = 27
        case unsupported = 28
        case noSuchContainer = 29
        case noSuchBlock = 30
        /// A container does not take this operation in its present state.
        case containerState = 31
        /// The bytes of a request do not match their length or checksum.
        case badRequest = 32
        case tooManyBuckets = 33
        /// A connection was lost or could not be made.
        case connection = 34
        case io = 35
        case `internal` = 36
        /// Another member of the group is to be asked: nothing was done. `leader` says which, where
        /// it is known.
        case notLeader = 37
        /// A repeat of a call that was answered or given up so long ago that what came of it is
        /// forgotten: it is not carried out again.
        case forgotten = 38
    }

    public var code: Code
    public var message: String
    /// Of `notLeader`: `HOST:PORT` of the member that leads, as far as is known.
    public var leader: String?

    public init(_ code: Code, _ message: String, leader: String? = nil) {
        self.code = code
        self.message = message
        self.leader = leader
    }

    public var description: String { "\(code): \(message)" }
}
