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

    /// The blocks that hold bytes of `range`.
    public init(of layout: Data, bytes range: Range<UInt64>) throws(StoreError) {
        var walk = Walk(range)
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
            walk = Walk(range)
            for block in try OMKeyLayout(parsing: layout.octets).blocks { walk.take(block) }
        }
        self = walk.excerpt
    }

    private init() {}

    private struct Walk {
        let range: Range<UInt64>
        var excerpt = LayoutExcerpt()
        private var position: UInt64 = 0

        init(_ range: Range<UInt64>) { self.range = range }

        mutating func take(_ block: OMStoredBlock) {
            let (sum, isBeyond) = position.addingReportingOverflow(block.length)
            let end = isBeyond ? .max : sum
            if (position..<end).overlaps(range) {
                if excerpt.blocks.isEmpty { excerpt.offset = position }
                excerpt.blocks.append(block)
            }
            position = end
        }
    }

}
