import Model
import Simulator

/// What of one machine outlives its processes: its files, and the tables of its database.
final class SimulatedMachine {
    /// Tables as of some command.
    struct TableImage {
        var index: UInt64 = 0
        var tables = InMemoryTables()
    }

    let files: SimulatedFiles
    /// What a power cut cannot take.
    var durableTables = TableImage()
    /// Later states that reached the database's file without a sync, oldest first.
    var flushedTables: [TableImage] = []

    // Faults that last for a while.
    var isFull = false
    var slowness = 1
    /// The same of the tables alone.
    var tablesSlowness = 1
    /// Until when operations that begin do not end.
    var hangsUntil: Microseconds = 0

    init() { files = SimulatedFiles() }

    /// A machine with the same on its disk.
    init(copying other: SimulatedMachine) {
        files = SimulatedFiles(copying: other.files)
        durableTables = other.durableTables
        flushedTables = other.flushedTables
    }

    var newestTables: TableImage { flushedTables.last ?? durableTables }

    /// The power fails: what was not synced is lost, torn or there.
    func cutPower(_ generator: inout SeededGenerator) {
        files.cutPower(&generator)
        if !flushedTables.isEmpty {
            let kept = generator.int(in: 0...flushedTables.count)
            if kept > 0 { durableTables = flushedTables[kept - 1] }
        }
        flushedTables = []
    }

    /// All of it is lost: a new machine in the old one's place.
    static func empty() -> SimulatedMachine { SimulatedMachine() }
}
