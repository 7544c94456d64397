import FoundationEssentials
import Model
import SwiftProtobuf

/// What a look-up needs of the blocks and parts of a key, out of the bytes of its `OMKeyLayout`:
/// those of a key of 10,000 parts are a megabyte, and a reader of its end wants one block.
///
/// Read by hand; a layout that has what this does not know is read by the generated parser.
public struct LayoutExcerpt: Equatable, Sendable {
    /// The blocks that hold what was asked for, in order.
    public var blocks: [OMStoredBlock] = []
    /// Where in the key the first of `blocks` begins.
    public var offset: UInt64 = 0
    /// Where in the key the last of them ends.
    public var end: UInt64 = 0
    /// Whether there were more blocks than were asked for.
    public var isCut = false

    /// The blocks that hold bytes of `range`, the first `limit` of them if they are more.
    public init(
        of layout: Data, bytes range: Range<UInt64>, limit: Int = .max
    ) throws(StoreError) {
        var walk = Walk(range, limit)
        let isRead = layout.withUnsafeBytes { bytes in
            var fields = FieldReader(bytes)
            while let tag = fields.next() {
                switch tag {
                case 0x0A: walk.take(fields.message())
                case 0x12: _ = fields.counted()
                default: fields.refuse()
                }
            }
            return fields.isComplete
        }
        if !isRead {
            walk = Walk(range, limit)
            for block in try OMKeyLayout(parsing: layout.octets).blocks { walk.take(block) }
        }
        self = walk.excerpt
    }

    private init() {}

    private struct Walk {
        let range: Range<UInt64>
        let limit: Int
        var excerpt = LayoutExcerpt()
        private var position: UInt64 = 0

        init(_ range: Range<UInt64>, _ limit: Int) {
            self.range = range
            self.limit = limit
        }

        mutating func take(_ block: OMStoredBlock) {
            let (sum, isBeyond) = position.addingReportingOverflow(block.bytesReferred)
            let end = isBeyond ? .max : sum
            if (position..<end).overlaps(range) {
                if excerpt.blocks.count < limit {
                    if excerpt.blocks.isEmpty { excerpt.offset = position }
                    excerpt.blocks.append(block)
                    excerpt.end = end
                } else {
                    excerpt.isCut = true
                }
            }
            position = end
        }
    }
}

extension OMStoredBlock {
    /// How many of the group's bytes are referred to.
    public var bytesReferred: UInt64 { count == 0 ? length : count }
    /// Whether all of the group is: what every record before format 2 means.
    public var isWhole: Bool { offset == 0 && bytesReferred == length }
}
