import Client
import Model

extension InMemoryObjectStore {
    /// All that the store holds.
    struct State {
        var users: [String: UserInfo] = [:]
        var volumes: [String: VolumeInfo] = [:]
        var buckets: [BucketPath: Bucket] = [:]
        /// Bytes of keys and parts, by the local ID of their one block.
        var data: [UInt64: [UInt8]] = [:]
        var nextID: UInt64 = 1
        var openWriters = 0
    }

    struct Bucket {
        var info: BucketInfo
        var keys: [KeyName: KeyInfo] = [:]
        /// The names of `keys`, in order.
        var order: [KeyName] = []
        var uploads: [UploadID: Upload] = [:]
        /// The uploads that keys were made of, of those that were.
        var origins: [KeyName: UploadID] = [:]
    }

    struct Upload {
        var info: UploadInfo
        /// By number, each with the block that holds it.
        var parts: [Int: (info: PartInfo, block: BlockGroup)] = [:]
    }
}

extension InMemoryObjectStore.State {
    /// The bucket, if `user` may use it.
    func bucket(
        _ path: BucketPath, _ user: String
    ) throws(StoreError) -> InMemoryObjectStore.Bucket {
        guard let bucket = buckets[path] else {
            throw StoreError(.noSuchBucket, "there is no bucket \(path)")
        }
        guard bucket.info.owner == user || users[user]?.isAdministrator == true else {
            throw StoreError(.accessDenied, "\(path) belongs to '\(bucket.info.owner)'")
        }
        return bucket
    }

    /// Puts `info` in the place of the key, or removes it, and drops the bytes it had.
    mutating func replace(_ key: KeyPath, with info: KeyInfo?) {
        guard var bucket = buckets.removeValue(forKey: key.bucket) else { return }
        defer { buckets[key.bucket] = bucket }
        let former = bucket.keys.removeValue(forKey: key.name)
        bucket.origins[key.name] = nil
        for group in former?.blockGroups ?? [] { data[group.blockID.localID] = nil }
        let index = bucket.lowerBound(key.name.bytes)
        if let info {
            bucket.keys[key.name] = info
            if former == nil { bucket.order.insert(key.name, at: index) }
        } else if former != nil {
            bucket.order.remove(at: index)
        }
    }

    /// Keeps bytes under a new block.
    mutating func keep(_ bytes: [UInt8], _ replication: ReplicationConfig) -> BlockGroup {
        let id = nextID
        nextID += 1
        data[id] = bytes
        return BlockGroup(
            blockID: BlockID(containerID: ContainerID(1), localID: id), replication: replication,
            length: bytes.count, nodes: .init(repeating: nil, count: replication.width))
    }
}

extension InMemoryObjectStore.Bucket {
    /// The index of the first name that is not before `bytes`.
    func lowerBound(_ bytes: [UInt8]) -> Int {
        var low = 0
        var high = order.count
        while low < high {
            let middle = (low + high) / 2
            if order[middle].bytes.lexicographicallyPrecedes(bytes) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        return low
    }

    func list(_ query: ListQuery) -> ListPage {
        var page = ListPage()
        guard query.limit > 0 else { return page }
        var count = 0
        var last: [UInt8] = []
        var index = lowerBound(max(query.prefix, query.startAfter))
        while index < order.count {
            let name = order[index].bytes
            guard name.starts(with: query.prefix) else { break }
            let group = Self.commonPrefix(name, query.prefix, query.delimiter)
            // A common prefix counts like a key: one that is not after the start is passed over
            // with all that is below it.
            if !query.startAfter.isEmpty, !query.startAfter.lexicographicallyPrecedes(group ?? name)
            {
                index = group.map { subtreeEnd($0) } ?? index + 1
                continue
            }
            guard count < query.limit else {
                page.next = last
                break
            }
            count += 1
            if let group {
                page.commonPrefixes.append(group)
                last = group
                index = subtreeEnd(group)
            } else {
                if var info = keys[order[index]] {
                    info.blockGroups = []
                    info.parts = []
                    page.keys.append(info)
                }
                last = name
                index += 1
            }
        }
        return page
    }

    /// The index behind all names that begin with `prefix`.
    private func subtreeEnd(_ prefix: [UInt8]) -> Int {
        var index = lowerBound(prefix)
        while index < order.count, order[index].bytes.starts(with: prefix) { index += 1 }
        return index
    }

    /// `name` up to and including the first delimiter behind the prefix; nil if there is none.
    static func commonPrefix(
        _ name: [UInt8], _ prefix: [UInt8], _ delimiter: [UInt8]
    ) -> [UInt8]? {
        guard !delimiter.isEmpty, name.count >= prefix.count + delimiter.count else { return nil }
        for start in prefix.count...(name.count - delimiter.count)
        where name[start..<start + delimiter.count].elementsEqual(delimiter) {
            return Array(name[..<(start + delimiter.count)])
        }
        return nil
    }

    private func max(_ a: [UInt8], _ b: [UInt8]) -> [UInt8] {
        a.lexicographicallyPrecedes(b) ? b : a
    }
}

extension KeyInfo {
    /// What a look-up with `selection` answers of this key, of which all is known.
    func selecting(_ selection: KeySelection) -> KeyInfo {
        var found = self
        let wanted: Range<Int>
        switch selection {
        case .all: return self
        case .head: wanted = 0..<0
        case .range(let start, let end):
            let end = min(end ?? length, length)
            wanted = min(start, end)..<end
        case .suffix(let count): wanted = max(0, length - count)..<length
        case .part(let number):
            guard !parts.isEmpty else {
                wanted = 0..<(number == 1 ? length : 0)
                break
            }
            let place = parts.firstIndex { $0.number == number }
            let start = parts[..<(place ?? 0)].reduce(0) { $0 + $1.length }
            wanted = start..<start + (place.map { parts[$0].length } ?? 0)
            found.selectedPart = SelectedPart(
                info: place.map { parts[$0] }, offset: start, count: parts.count)
        }
        found.parts = []
        found.blockGroups = []
        var position = 0
        for group in blockGroups {
            let end = position + group.length
            if end > wanted.lowerBound, position < wanted.upperBound {
                if found.blockGroups.isEmpty { found.groupsOffset = position }
                found.blockGroups.append(group)
            }
            position = end
        }
        return found
    }
}
