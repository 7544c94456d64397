import Client
import Model

/// The conditions of a read (RFC 9110, 13), or of the source of a copy.
struct ReadConditions: Equatable {
    var ifMatch: String?
    var ifNoneMatch: String?
    var ifModifiedSince: Timestamp?
    var ifUnmodifiedSince: Timestamp?

    enum Outcome: Equatable {
        case proceed
        case notModified
        case failed
    }

    /// - Parameter prefix: `""` for a read, `"x-amz-copy-source-"` for the source of a copy.
    init(_ request: S3Request, prefix: String = "") {
        ifMatch = request.header("\(prefix)if-match")
        ifNoneMatch = request.header("\(prefix)if-none-match")
        ifModifiedSince = request.header("\(prefix)if-modified-since").flatMap {
            DateText.parseHTTP($0)
        }
        ifUnmodifiedSince = request.header("\(prefix)if-unmodified-since").flatMap {
            DateText.parseHTTP($0)
        }
    }

    /// What holds of a key with this tag and time. Times count in whole seconds, as headers do;
    /// a tag's condition comes before that of a time. To have been modified since a moment that is
    /// still to come, after `now`, is no condition.
    func evaluate(etag: String, modified: Timestamp, now: Timestamp) -> Outcome {
        let seconds = modified.milliseconds / 1000
        if let ifMatch {
            if !Self.matches(ifMatch, etag) { return .failed }
        } else if let limit = ifUnmodifiedSince, seconds > limit.milliseconds / 1000 {
            return .failed
        }
        if let ifNoneMatch {
            if Self.matches(ifNoneMatch, etag) { return .notModified }
        } else if let limit = ifModifiedSince, limit <= now, seconds <= limit.milliseconds / 1000 {
            return .notModified
        }
        return .proceed
    }

    /// Whether `list` (`*`, or tags with or without quotes) has `etag`.
    static func matches(_ list: String, _ etag: String) -> Bool {
        list.split(separator: ",").contains { item in
            let tag = unquoted(trimmingSpaces(item))
            return tag == "*" || tag == etag
        }
    }

    /// A tag without quotes and without the mark of a weak one.
    static func unquoted(_ tag: String) -> String {
        var text = tag[...]
        if text.hasPrefix("W/") { text = text.dropFirst(2) }
        if text.count >= 2, text.hasPrefix("\""), text.hasSuffix("\"") {
            text = text.dropFirst().dropLast()
        }
        return String(text)
    }
}

extension WriteCondition {
    /// The condition of a write or a delete: `If-None-Match: *` or `If-Match`.
    init(_ request: S3Request) throws(S3Error) {
        let ifMatch = request.header("if-match")
        let ifNoneMatch = request.header("if-none-match")
        switch (ifMatch, ifNoneMatch) {
        case (nil, nil): self = .none
        case (nil, let tag?):
            guard trimmingSpaces(tag) == "*" else {
                throw S3Error.notImplemented("If-None-Match on writes with a value other than *")
            }
            self = .ifAbsent
        case (let tag?, nil):
            let tag = ReadConditions.unquoted(trimmingSpaces(tag))
            self = tag == "*" ? .ifPresent : .ifETag(tag)
        case (_?, _?):
            throw S3Error.notImplemented("If-Match together with If-None-Match on writes")
        }
    }
}
