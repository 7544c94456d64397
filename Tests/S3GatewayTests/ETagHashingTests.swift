import Bytes
import Chance
import Crypto
import Testing

@testable import S3Gateway

@Suite("ETag hashing")
struct ETagHashingTests {
    private func digest(_ bytes: [UInt8]) -> [UInt8] { Array(Insecure.MD5.hash(data: bytes)) }

    @Test("many uploads at once, in pieces of any length, get the digests they would alone")
    func sideBySide() async throws {
        let hashing = ETagHashing()
        await withTaskGroup(of: Void.self) { group in
            for upload in 0..<40 {
                group.addTask {
                    var random = SeededGenerator(seed: UInt64(upload) + 1)
                    var whole: [UInt8] = []
                    let stream = hashing.open()
                    let wanted = [0, 1, 63, 64, 4096, 100_000, 3_000_000, 9_000_001][upload % 8]
                    while whole.count < wanted {
                        let most = min(300_000, wanted - whole.count)
                        let count = Int(random.next() % UInt64(most)) + 1
                        let byte = UInt8(truncatingIfNeeded: random.next())
                        let piece = Payload(
                            copying: [UInt8](repeating: byte, count: count), pool: .process)
                        whole += [UInt8](repeating: byte, count: count)
                        let bytes = piece.buffer.bytes(in: 0..<count)
                        await stream.add(UnsafeRawBufferPointer(bytes), of: piece)
                        if random.next() % 16 == 0 { await Task.yield() }
                    }
                    let found = await stream.finish()
                    let isRight = found == self.digest(whole)
                    #expect(isRight, "upload \(upload) of \(wanted) bytes")
                }
            }
        }
    }

    @Test(
        "a sender whose share has shrunk below what waits is hashed for until it may go on",
        .timeLimit(.minutes(10)))
    func shrunkShare() async throws {
        let hashing = ETagHashing()
        let idle = (0..<7).map { _ in hashing.open() }
        let bytes = [UInt8](repeating: 9, count: 1 << 20)
        let piece = Payload(copying: bytes, pool: .process)
        let pointer = UnsafeRawBufferPointer(piece.buffer.bytes(in: 0..<piece.count))
        let stream = hashing.open()
        for _ in 0..<7 { await stream.add(pointer, of: piece) }
        let more = (0..<300).map { _ in hashing.open() }
        await stream.add(pointer, of: piece)
        #expect(await stream.finish() == digest((0..<8).flatMap { _ in bytes }))
        for other in idle + more { other.close() }
    }

    @Test("an upload that breaks off does not hold up the others")
    func breakingOff() async throws {
        let hashing = ETagHashing()
        let bytes = [UInt8](repeating: 7, count: 3_000_000)
        let piece = Payload(copying: bytes, pool: .process)
        let pointer = UnsafeRawBufferPointer(piece.buffer.bytes(in: 0..<piece.count))
        let broken = (0..<12).map { _ in hashing.open() }
        for stream in broken { await stream.add(pointer, of: piece) }
        let good = hashing.open()
        await good.add(pointer, of: piece)
        for stream in broken { stream.close() }
        #expect(await good.finish() == digest(bytes))
    }
}
