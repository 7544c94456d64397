import Bytes
import Checksum
import ErasureCode
import Model

/// A stripe being filled, and then a stripe on its way: d data cells, p parity cells and their
/// checksums, each cell in a buffer of its own.
struct Stripe: Sendable {
    let coding: ErasureCoding
    private(set) var data: [AlignedBuffer] = []
    private(set) var length = 0
    private var parity: [AlignedBuffer] = []
    /// Of data cells as they are filled, of parity cells when they are made.
    private var dataSums: [UnitChecksums] = []
    private var paritySums: [[UInt32]] = []
    private let pool: BufferPool
    /// Bytes to make room for in a cell; less than a cell where the key is known to be short.
    private let cellCapacity: Int

    init(_ coding: ErasureCoding, expecting length: Int?, pool: BufferPool) {
        self.coding = coding
        self.pool = pool
        cellCapacity = min(coding.cellSize, max(length ?? coding.cellSize, 1))
    }

    var isFull: Bool { length == coding.stripeSize }

    /// User bytes of cell `index`.
    func cellLength(_ index: Int) -> Int {
        let position = index < coding.data ? index : 0
        return min(coding.cellSize, max(0, length - position * coding.cellSize))
    }

    /// Takes as many of `bytes` as there is room for; returns how many.
    mutating func fill(_ bytes: UnsafeRawBufferPointer) -> Int {
        var taken = 0
        while taken < bytes.count, !isFull {
            let cell = length / coding.cellSize
            let offset = length % coding.cellSize
            if cell == data.count {
                data.append(pool.allocate(cellCapacity))
                dataSums.append(UnitChecksums(expecting: cellCapacity))
            }
            if offset == data[cell].capacity { grow(cell) }
            let room = min(coding.cellSize, data[cell].capacity) - offset
            let count = min(room, bytes.count - taken)
            dataSums[cell].copy(
                UnsafeRawBufferPointer(rebasing: bytes[taken..<taken + count]),
                to: data[cell].bytes(in: offset..<offset + count))
            taken += count
            length += count
        }
        return taken
    }

    /// The key was longer than announced: a whole cell after all.
    private mutating func grow(_ cell: Int) {
        let larger = pool.allocate(coding.cellSize)
        larger.base.copyMemory(from: data[cell].base, byteCount: data[cell].capacity)
        data[cell] = larger
    }

    /// Computes parity and its checksums.
    mutating func encode(_ codec: Codec) {
        let cellBytes = (0..<coding.data).map { index in
            index < data.count
                ? UnsafeRawBufferPointer(data[index].bytes(in: 0..<cellLength(index)))
                : UnsafeRawBufferPointer(start: nil, count: 0)
        }
        parity = (0..<coding.parity).map { _ in pool.allocate(max(cellLength(0), 1)) }
        let targets = parity.map { $0.bytes(in: 0..<cellLength(0)) }
        paritySums = codec.encodeAndChecksumParity(data: cellBytes, parity: targets)
    }

    /// Gives the memory back; lengths stay.
    mutating func dropBuffers() {
        data = []
        parity = []
        dataSums = []
        paritySums = []
    }

    /// Cell `index` (from 0; parity from d on) and its checksums, nil where it is empty.
    func cell(_ index: Int) -> (payload: Payload?, checksums: [UInt32]) {
        let count = cellLength(index)
        guard count > 0 else { return (nil, []) }
        guard index < coding.data else {
            let row = index - coding.data
            return (Payload(parity[row], 0..<count), paritySums[row])
        }
        return (Payload(data[index], 0..<count), dataSums[index].sums)
    }
}
