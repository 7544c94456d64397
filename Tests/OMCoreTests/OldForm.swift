/// Messages as released versions wrote them, put together by hand: what they look like here is
/// what they look like on disks, and stays so whatever becomes of the definitions.
enum OldForm {
    static func number(_ field: UInt64, _ value: UInt64) -> [UInt8] {
        value == 0 ? [] : varint(field << 3) + varint(value)
    }

    static func bytes(_ field: UInt64, _ value: [UInt8]) -> [UInt8] {
        varint(field << 3 | 2) + varint(UInt64(value.count)) + value
    }

    static func text(_ field: UInt64, _ value: String) -> [UInt8] {
        value.isEmpty ? [] : bytes(field, Array(value.utf8))
    }

    static func fixed(_ field: UInt64, _ value: UInt64) -> [UInt8] {
        varint(field << 3 | 1) + (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    private static func varint(_ value: UInt64) -> [UInt8] {
        var (rest, bytes): (UInt64, [UInt8]) = (value, [])
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        return bytes + [UInt8(rest)]
    }

    /// rs-3-2-1024k.
    static let replication = number(2, 3) + number(3, 2) + number(4, 1 << 20)

    static func path(_ bucket: String) -> [UInt8] { text(1, "s3v") + text(2, bucket) }
    static func path(_ bucket: String, _ key: String) -> [UInt8] {
        bytes(1, path(bucket)) + text(2, key)
    }
    static func block(_ container: UInt64, _ local: UInt64) -> [UInt8] {
        number(1, container) + number(2, local)
    }

    // MARK: Records

    static func user(_ name: String, buckets: UInt64) -> [UInt8] {
        bytes(1, text(1, name) + text(2, "AK-" + name) + text(3, "secret")) + number(3, buckets)
    }

    static func bucket(_ name: String, number bucket: UInt64, owner: String) -> [UInt8] {
        number(1, bucket)
            + bytes(
                2,
                text(1, "s3v") + text(2, name) + text(3, owner) + number(6, 5)
                    + bytes(7, replication))
    }

    static func key(
        _ blocks: [(container: UInt64, local: UInt64, length: UInt64)], etag: String,
        modified: UInt64, openID: UInt64
    ) -> [UInt8] {
        let layout = blocks.flatMap { block in
            bytes(1, number(1, block.container) + number(2, block.local) + number(3, block.length))
        }
        return number(1, blocks.reduce(0) { $0 + $1.length }) + text(2, etag)
            + number(3, modified) + bytes(4, replication) + bytes(5, []) + bytes(7, layout)
            + number(8, openID)
    }

    // MARK: Commands

    static func command(_ time: UInt64, _ body: UInt64, _ message: [UInt8]) -> [UInt8] {
        number(1, time) + bytes(body, message)
    }

    static func createUser(_ name: String) -> [UInt8] {
        command(1, 2, text(1, name) + text(2, "AK-" + name) + text(3, "secret"))
    }

    static func createBucket(_ name: String, user: String) -> [UInt8] {
        command(2, 6, bytes(1, path(name)) + bytes(2, replication) + text(3, user))
    }

    static func open(
        _ bucket: String, _ key: String, user: String, block: [UInt8]
    ) -> [UInt8] {
        command(
            3, 8,
            bytes(1, path(bucket, key)) + bytes(2, replication) + text(3, user)
                + bytes(4, block))
    }

    static func commit(
        _ id: UInt64, user: String, etag: String, block: [UInt8], length: UInt64
    ) -> [UInt8] {
        command(
            4, 10,
            number(1, id) + bytes(2, bytes(1, block) + number(3, length)) + text(3, etag)
                + bytes(4, []) + bytes(6, []) + text(7, user))
    }

    static func delete(_ bucket: String, _ key: String, user: String) -> [UInt8] {
        command(5, 12, bytes(1, path(bucket, key)) + text(3, user))
    }
}
