import Model
import Wire

enum OMClientLimits {
    /// Entries that are asked for at once; the Ozone Manager gives no more, and fewer where they
    /// are long.
    static let page: UInt32 = 10_000
    /// Times that a key is looked up anew because it was replaced between two answers.
    static let replacements = 4
}

// Answers of which only the first part came: what does not go into one comes with others.

extension OMClient {
    /// The key of which `response` has the groups up to `end`, with those beyond it that
    /// `selection` asks for. All are of one version of the key: if it is replaced meanwhile, it
    /// is looked up from the start.
    func whole(
        _ response: OMKeyResponse, _ selection: KeySelection, from end: UInt64,
        _ request: OMLookupKeyRequest
    ) async throws(StoreError) -> KeyInfo {
        var response = response
        var next = end
        var replacements = 0
        while next > 0 {
            var range = OMKeySelection()
            range.kind = .range
            range.start = next
            range.end = Self.end(of: response, selection)
            var rest = request
            rest.selection = range
            let more = try OMKeyResponse(
                parsing: try await caller.call(.lookupKey, rest.encoded))
            if more.key.generation == response.key.generation,
                more.key.length == response.key.length, more.key.etag == response.key.etag
            {
                response.key.groups += more.key.groups
                next = more.excerpt.first?.groupsEnd ?? 0
                continue
            }
            replacements += 1
            guard replacements <= OMClientLimits.replacements else {
                throw StoreError(
                    .conflict,
                    "the key '\(KeyName(unchecked: request.key.name.octets))' is replaced more "
                        + "quickly than it can be looked up")
            }
            response = try OMKeyResponse(
                parsing: try await caller.call(.lookupKey, request.encoded))
            next = response.excerpt.first?.groupsEnd ?? 0
        }
        return try KeyInfo(response, selection)
    }

    /// Where in the key ends what `selection` asks for; 0: where the key does.
    private static func end(of response: OMKeyResponse, _ selection: KeySelection) -> UInt64 {
        switch selection {
        case .all, .head, .suffix, .range(_, nil): return 0
        case .range(_, let end?): return UInt64(clamping: end)
        case .part:
            guard let part = response.key.parts.first, let excerpt = response.excerpt.first else {
                return 0
            }
            return excerpt.partOffset + part.length
        }
    }

    /// The key that a change made, which `request` looks up.
    func keyInfo(
        _ method: OMMethod, _ message: [UInt8], _ request: OMLookupKeyRequest
    ) async throws(StoreError) -> KeyInfo {
        let response = try OMKeyResponse(parsing: try await caller.call(method, message))
        let end = response.excerpt.first?.groupsEnd ?? 0
        guard end > 0 else { return try KeyInfo(response.key) }
        return try await whole(response, .all, from: end, request)
    }
}
