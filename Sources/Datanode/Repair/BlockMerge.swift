import Model

/// The blocks of several replicas, each in order of local ID, as one sequence of what they all say
/// of each block. Holds a page of each at most.
///
/// Pure: whoever uses it asks the sources for the pages that it names.
struct BlockMerge: Sendable {
    struct Entry: Hashable, Sendable {
        var localID: UInt64
        var length: Int
        var groupLength: Int
        var isEnded: Bool
    }

    /// A page to be had: of which source, and the local ID it begins behind.
    struct Request: Hashable, Sendable {
        var index: Int
        var after: UInt64
    }

    /// A part of a source's blocks, in order.
    struct Page: Sendable {
        var entries: [Entry]
        /// There are more behind the last one.
        var hasMore: Bool
    }

    private struct Stream {
        var page: ArraySlice<Entry> = []
        /// The local ID that the last page ended with.
        var after: UInt64 = 0
        var hasMore = true
    }

    private var streams: [Int: Stream]

    /// - Parameter indexes: of the sources.
    init(_ indexes: some Sequence<Int>) {
        streams = Dictionary(uniqueKeysWithValues: indexes.map { ($0, Stream()) })
    }

    /// The sources that still are listened to.
    var indexes: Set<Int> { Set(streams.keys) }

    /// Pages that are to be had before `next`.
    var missing: [Request] {
        streams.filter { $0.value.page.isEmpty && $0.value.hasMore }
            .map { Request(index: $0.key, after: $0.value.after) }
            .sorted { $0.index < $1.index }
    }

    /// Takes a page of the source `index`. Throws `corrupt` if it is not in order, or empty with more
    /// behind it.
    mutating func take(_ page: Page, of index: Int) throws(StoreError) {
        guard var stream = streams[index] else { return }
        var last = stream.after
        for entry in page.entries {
            guard entry.localID > last || (last == 0 && entry == page.entries.first) else {
                throw StoreError(
                    .corrupt,
                    "replica \(index) lists block \(entry.localID) behind block \(last)")
            }
            last = entry.localID
        }
        guard !page.hasMore || !page.entries.isEmpty else {
            throw StoreError(.corrupt, "replica \(index) lists nothing, and more behind it")
        }
        stream.page = page.entries[...]
        stream.after = last
        stream.hasMore = page.hasMore
        streams[index] = stream
    }

    /// Listens to the source `index` no more: what it has or lacks is not known from now on.
    mutating func drop(_ index: Int) { streams[index] = nil }

    /// The next block that one of the sources has, and what each says of it; nil at the end.
    /// Precondition: no page is missing.
    mutating func next() -> (localID: UInt64, words: [Int: BlockSurvey.Word])? {
        precondition(missing.isEmpty, "the next block is not known without all pages")
        guard let localID = streams.values.compactMap(\.page.first?.localID).min() else {
            return nil
        }
        var words: [Int: BlockSurvey.Word] = [:]
        for index in Array(streams.keys) {
            guard let first = streams[index]!.page.first, first.localID == localID else {
                words[index] = .lacks
                continue
            }
            streams[index]!.page.removeFirst()
            words[index] = .has(
                length: first.length, groupLength: first.groupLength, isEnded: first.isEnded)
        }
        return (localID, words)
    }
}
