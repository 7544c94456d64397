import Bytes
import ContainerFormat
import Model
import Reactor
import Synchronization

/// What a store keeps of its closed containers: index pages, and open data files. Both bounded.
///
/// By their serial numbers: a replica may be removed and another of the same container made while
/// somebody still reads the first, and what is found then is never taken for the second's.
final class ClosedCache: Sendable {
    enum Key: Hashable {
        /// Of the container with this serial number.
        case table(UInt64)
        case page(UInt64, Int)

        var serial: UInt64 {
            switch self {
            case .table(let serial), .page(let serial, _): serial
            }
        }
    }

    enum Value {
        case table([ContainerIndex.PageInfo])
        case page([BlockEntry])
    }

    private let index: Mutex<BoundedCache<Key, Value>>
    private let files: Mutex<BoundedCache<UInt64, File>>

    init(indexBytes: Int, files: Int) {
        index = Mutex(BoundedCache(limit: indexBytes))
        self.files = Mutex(BoundedCache(limit: files))
    }

    var indexCost: Int { index.withLock { $0.cost } }

    /// The data file of a closed container. Dropping the last reference closes it.
    nonisolated(nonsending)
        func dataFile(of container: Container) async throws(StoreError) -> File
    {
        if let file = files.withLock({ $0.value(container.serial) }) { return file }
        do throws(IOError) {
            let path = container.volume.dataPath(container.id)
            let file = try await File.open(
                path, [.read, .write, .direct], on: container.volume.reactor,
                disk: container.volume.disk)
            files.withLock { $0.insert(file, for: container.serial, cost: 1) }
            forgetIfRemoved(container)
            return file
        } catch {
            guard error.kind == .disk || error.kind == .absent else {
                throw container.volume.refusal(for: error)
            }
            throw StoreError(.io, "\(container.name): \(error.description)")
        }
    }

    func value(_ key: Key) -> Value? { index.withLock { $0.value(key) } }

    /// - Parameter key: of `container`.
    func insert(_ value: Value, for key: Key, bytes: Int, of container: Container) {
        index.withLock { $0.insert(value, for: key, cost: bytes) }
        forgetIfRemoved(container)
    }

    func forget(_ container: Container) {
        index.withLock { $0.removeAll { $0.serial == container.serial } }
        files.withLock { $0.remove(container.serial) }
    }

    /// Who removes it forgets it once; what came after that would stay, and keep the space of its
    /// file.
    private func forgetIfRemoved(_ container: Container) {
        if container.state.withLock({ $0.phase == .deleted }) { forget(container) }
    }
}

extension Container {
    /// The entry of a block of this container, which is closed.
    nonisolated(nonsending)
        func closedEntry(
            _ block: BlockID, cache: ClosedCache
        ) async throws(StoreError) -> BlockEntry
    {
        let pages = try await indexTable(cache)
        guard !state.withLock({ $0.deleted.contains(block.localID) }),
            let number = ContainerIndex.page(of: block.localID, in: pages)
        else { throw noSuchBlock(block) }
        let entries = try await indexPage(number, of: pages, cache)
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].localID < block.localID { low = middle + 1 } else { high = middle }
        }
        guard low < entries.count, entries[low].localID == block.localID else {
            throw noSuchBlock(block)
        }
        return entries[low]
    }

    /// The table of index pages of this container, which is closed.
    nonisolated(nonsending)
        func indexTable(_ cache: ClosedCache) async throws(StoreError) -> [ContainerIndex.PageInfo]
    {
        if case .table(let pages) = cache.value(.table(serial)) { return pages }
        let file = try await cache.dataFile(of: self)
        let footer = try await storedFooter(file)
        let pages = try await storedTable(footer, file)
        cache.insert(
            .table(pages), for: .table(serial), bytes: footer.tableLength + 64, of: self)
        return pages
    }

    /// The footer as it is on disk. Damage is marked.
    nonisolated(nonsending)
        func storedFooter(
            _ file: File, for context: IOContext = .client
        ) async throws(StoreError) -> ContainerFooter
    {
        guard case .closed(let footerOffset) = state.withLock({ $0.phase }) else {
            throw StoreError(.noSuchContainer, "\(name) is being deleted")
        }
        let footerBytes = try await indexBytes(
            file, footerOffset..<footerOffset + ContainerFooter.size, context)
        let footer = try parsed("footer") { () throws(FormatError) in
            try footerBytes.withParsed { (bytes) throws(FormatError) in
                try ContainerFooter(parsing: bytes)
            }
        }
        guard footer.header == header, footer.tableOffset + footer.tableLength <= footerOffset
        else {
            let text = "\(name): the footer is that of another replica"
            markDamaged(text)
            throw StoreError(.corrupt, text)
        }
        return footer
    }

    /// The table of index pages as it is on disk. Damage is marked.
    nonisolated(nonsending)
        func storedTable(
            _ footer: ContainerFooter, _ file: File, for context: IOContext = .client
        ) async throws(StoreError) -> [ContainerIndex.PageInfo]
    {
        let tableBytes = try await indexBytes(
            file, footer.tableOffset..<footer.tableOffset + footer.tableLength, context)
        return try parsed("index table") { () throws(FormatError) in
            try tableBytes.withParsed { (bytes) throws(FormatError) in
                try ContainerIndex.parseTable(bytes, footer: footer)
            }
        }
    }

    /// One page of the index of this container, which is closed.
    nonisolated(nonsending)
        func indexPage(
            _ number: Int, of pages: [ContainerIndex.PageInfo], _ cache: ClosedCache
        ) async throws(StoreError) -> [BlockEntry]
    {
        let key = ClosedCache.Key.page(serial, number)
        if case .page(let entries) = cache.value(key) { return entries }
        let entries = try await storedPage(number, of: pages, try await cache.dataFile(of: self))
        // In memory an entry takes about twice what it takes on disk.
        cache.insert(.page(entries), for: key, bytes: 2 * pages[number].length, of: self)
        return entries
    }

    /// One page of the index as it is on disk. Damage is marked.
    nonisolated(nonsending)
        func storedPage(
            _ number: Int, of pages: [ContainerIndex.PageInfo], _ file: File,
            for context: IOContext = .client
        ) async throws(StoreError) -> [BlockEntry]
    {
        let info = pages[number]
        let bytes = try await indexBytes(
            file, info.fileOffset..<info.fileOffset + info.length, context)
        return try parsed("index page \(number)") { () throws(FormatError) in
            try bytes.withParsed { (bytes) throws(FormatError) in
                try ContainerIndex.parsePage(bytes, info)
            }
        }
    }

    nonisolated(nonsending)
        private func indexBytes(
            _ file: File, _ range: Range<Int>, _ context: IOContext
        ) async throws(StoreError) -> [UInt8]
    {
        do throws(IOError) { return try await volume.read(file, range, for: context) } catch {
            guard error.kind == .disk else { throw volume.refusal(for: error) }
            markDamaged("its index cannot be read: \(error.description)")
            throw StoreError(.io, "\(name): \(error.description)")
        }
    }

    private func parsed<R>(
        _ what: String, _ body: () throws(FormatError) -> R
    ) throws(StoreError) -> R {
        do throws(FormatError) { return try body() } catch {
            let text = "\(name), \(what): \(error.description)"
            markDamaged(text)
            throw StoreError(.corrupt, text)
        }
    }
}

extension [UInt8] {
    /// As `withUnsafeBytes`, for bodies that throw a typed error.
    func withParsed<R>(
        _ body: (UnsafeRawBufferPointer) throws(FormatError) -> R
    ) throws(FormatError) -> R {
        let result = withUnsafeBytes { bytes -> Result<R, FormatError> in
            do throws(FormatError) { return .success(try body(bytes)) } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}
