import CDigest

/// Several messages side by side.
///
/// The way to use it: keep one job per message that has bytes waiting, at most `MD5.lanes`; call
/// `advance`; whichever job's `bytes` are empty then gets its next piece, or leaves its place to
/// another message; call again. A piece may have any length and begin anywhere, but pieces of
/// 16 KiB and more keep the lanes full for longest.
extension MD5 {
    /// How many messages side by side this processor hashes at the best rate in total. 1 where it
    /// has no vectors for it.
    public static let lanes = apus_md5_best_lanes()

    /// A message being hashed and the bytes that it is to take next.
    ///
    /// Whoever holds a job keeps the memory of `bytes` valid until they are empty.
    public struct Job {
        /// The message so far.
        public var hash: MD5
        /// What is still to be taken; shrinks from the front as it is.
        public var bytes: UnsafeRawBufferPointer

        public init(_ hash: MD5 = MD5(), bytes: UnsafeRawBufferPointer) {
            self.hash = hash
            self.bytes = bytes
        }
    }

    /// As the other `advance`, for an array. The array is not copied if it is the only reference.
    @discardableResult
    public static func advance(_ jobs: inout [Job], most: Int = .max) -> Int {
        jobs.withUnsafeMutableBufferPointer { advance($0, most: most) }
    }

    /// Hashes bytes of all `jobs` side by side, until the first of them that had any has none left
    /// or `most` bytes of each (rounded up to blocks) were taken; then returns how many bytes were
    /// taken in total, 0 only if there were none. Allocates nothing.
    ///
    /// Jobs without bytes cost nothing. More than 16 jobs are worked on 16 after 16, each group
    /// until its first has run out.
    @discardableResult
    public static func advance(
        _ jobs: UnsafeMutableBufferPointer<Job>, most: Int = .max
    ) -> Int {
        precondition(most > 0, "at least one byte of each job is to be taken")
        let width = Int(APUS_MD5_MOST_LANES)
        return withUnsafeTemporaryAllocation(of: Int.self, capacity: width) { members in
            var taken = 0
            var next = 0
            while next < jobs.count {
                var count = 0
                while next < jobs.count, count < width {
                    if !jobs[next].bytes.isEmpty {
                        members[count] = next
                        count += 1
                    }
                    next += 1
                }
                let group = UnsafeMutableBufferPointer(rebasing: members[..<count])
                taken += advance(jobs, group, most: most)
            }
            return taken
        }
    }

    /// Advances the jobs with the indices `members`, at most 16, all with bytes.
    private static func advance(
        _ jobs: UnsafeMutableBufferPointer<Job>, _ members: UnsafeMutableBufferPointer<Int>,
        most: Int
    ) -> Int {
        if members.isEmpty { return 0 }
        return withUnsafeTemporaryAllocation(of: SIMD64<UInt8>.self, capacity: members.count) {
            tails in
            Lanes.withLanes { lanes in
                var lanes = lanes
                let before = members.reduce(0) { $0 + jobs[$1].bytes.count }
                takeTails(jobs, members, tails, &lanes)
                takeBlocks(jobs, members, &lanes, most: most)
                let after = members.reduce(0) { $0 + jobs[$1].bytes.count }
                return before - after
            }
        }
    }

    /// Fills up the begun blocks of the `members` and takes those that are whole then, so that the
    /// others begin at a block. `tails` is room for a block of each.
    private static func takeTails(
        _ jobs: UnsafeMutableBufferPointer<Job>, _ members: UnsafeMutableBufferPointer<Int>,
        _ tails: UnsafeMutableBufferPointer<SIMD64<UInt8>>, _ lanes: inout Lanes
    ) {
        for index in members where jobs[index].hash.tailCount > 0 {
            let bytes = jobs[index].bytes
            jobs[index].bytes = jobs[index].hash.absorb(
                bytes, upTo: blockSize - jobs[index].hash.tailCount)
            if jobs[index].hash.tailCount == blockSize {
                let tail = tails.baseAddress! + lanes.count
                tail.initialize(to: jobs[index].hash.tail)
                lanes.add(index, jobs[index].hash.state, at: UnsafeRawPointer(tail))
                jobs[index].hash.tailCount = 0
            }
        }
        lanes.run(blocks: 1, jobs)
    }

    /// Takes as many whole blocks as each of those `members` has that have any, and moves what
    /// is less than a block to the tails.
    private static func takeBlocks(
        _ jobs: UnsafeMutableBufferPointer<Job>, _ members: UnsafeMutableBufferPointer<Int>,
        _ lanes: inout Lanes, most: Int
    ) {
        var blocks = (most - 1) / blockSize + 1
        for index in members where jobs[index].bytes.count >= blockSize {
            blocks = min(blocks, jobs[index].bytes.count / blockSize)
            lanes.add(index, jobs[index].hash.state, at: jobs[index].bytes.baseAddress!)
        }
        if lanes.count > 0 {
            let count = blocks * blockSize
            for index in members where jobs[index].bytes.count >= blockSize {
                jobs[index].bytes = UnsafeRawBufferPointer(rebasing: jobs[index].bytes[count...])
                jobs[index].hash.count += UInt64(count)
            }
        }
        lanes.run(blocks: blocks, jobs)
        for index in members where jobs[index].bytes.count < blockSize {
            // A block that was begun before is filled up or out of bytes by now.
            let bytes = jobs[index].bytes
            if !bytes.isEmpty {
                jobs[index].bytes = jobs[index].hash.absorb(bytes, upTo: bytes.count)
            }
        }
    }

    /// The arguments of one call of the kernel, in memory of the stack.
    private struct Lanes {
        /// Lanes in use.
        private(set) var count = 0
        private let states: UnsafeMutableBufferPointer<SIMD4<UInt32>>
        private let data: UnsafeMutableBufferPointer<UnsafePointer<UInt8>?>
        private let jobs: UnsafeMutableBufferPointer<Int>

        /// Runs `body` with room for 16 lanes, none in use.
        static func withLanes(_ body: (Lanes) -> Int) -> Int {
            let width = Int(APUS_MD5_MOST_LANES)
            return withUnsafeTemporaryAllocation(of: SIMD4<UInt32>.self, capacity: width) {
                states in
                withUnsafeTemporaryAllocation(
                    of: UnsafePointer<UInt8>?.self, capacity: width
                ) { data in
                    withUnsafeTemporaryAllocation(of: Int.self, capacity: width) { jobs in
                        body(Lanes(states: states, data: data, jobs: jobs))
                    }
                }
            }
        }

        private init(
            states: UnsafeMutableBufferPointer<SIMD4<UInt32>>,
            data: UnsafeMutableBufferPointer<UnsafePointer<UInt8>?>,
            jobs: UnsafeMutableBufferPointer<Int>
        ) {
            self.states = states
            self.data = data
            self.jobs = jobs
        }

        /// Gives the next lane to job `job`, in `state`, with the blocks at `start`.
        mutating func add(_ job: Int, _ state: SIMD4<UInt32>, at start: UnsafeRawPointer) {
            (states.baseAddress! + count).initialize(to: state)
            (data.baseAddress! + count).initialize(to: start.assumingMemoryBound(to: UInt8.self))
            (jobs.baseAddress! + count).initialize(to: job)
            count += 1
        }

        /// Takes `blocks` blocks in each lane and writes the states back; no lane is in use then.
        mutating func run(blocks: Int, _ all: UnsafeMutableBufferPointer<Job>) {
            guard count > 0 else { return }
            states.withMemoryRebound(to: UInt32.self) { words in
                apus_md5_lanes(words.baseAddress, data.baseAddress, count, blocks)
            }
            for lane in 0..<count { all[jobs[lane]].hash.state = states[lane] }
            count = 0
        }
    }
}
