import Model
import Testing

@Suite("replications")
struct ReplicationTests {
    @Test(
        "what was written is read back as the same text, whatever its case",
        arguments: [
            ("rs-6-3-1024k", "rs-6-3-1024k"), ("RS-3-2-64K", "rs-3-2-64k"),
            ("xor-2-1-65536", "xor-2-1-64k"), ("ratis-1", "ratis-1"), ("Ratis-3", "ratis-3"),
            ("RATIS/ONE", "ratis-1"), ("RATIS/THREE", "ratis-3"),
        ])
    func texts(text: String, name: String) throws {
        let config = try ReplicationConfig(text)
        #expect(config.description == name)
        #expect(try ReplicationConfig(name) == config)
    }

    @Test("what both kinds have means the same thing for both")
    func shared() throws {
        let coded = try ReplicationConfig("rs-6-3-1024k")
        #expect(coded.width == 9 && coded.minimumReplicas == 6 && coded.redundancy == 3)
        #expect(coded.blockGroupSize == 6 * 256 << 20)
        #expect(try coded.erasureCoding() == ErasureCoding("rs-6-3-1024k"))
        let three = ReplicationConfig.replicated(.three)
        #expect(three.width == 3 && three.minimumReplicas == 1 && three.redundancy == 2)
        let one = ReplicationConfig.replicated(.one)
        #expect(one.width == 1 && one.minimumReplicas == 1 && one.redundancy == 0)
        #expect(three.blockGroupSize == 256 << 20 && one.blockGroupSize == 256 << 20)
    }

    @Test("a block group ends with a whole stripe where the cell does not divide the block")
    func wholeStripes() throws {
        let coded = try ReplicationConfig("rs-3-2-48k")
        let cells = (256 << 20) / (48 << 10)
        #expect(coded.blockGroupSize == cells * 3 * (48 << 10))
    }

    @Test("whoever asks copies for their coding is told what would be right")
    func unsupported() {
        for factor in ReplicationConfig.Factor.allCases {
            let error = #expect(throws: StoreError.self) {
                try ReplicationConfig.replicated(factor).erasureCoding()
            }
            #expect(error?.code == .unsupported)
            let message = error?.message ?? ""
            #expect(message.hasPrefix("ratis-\(factor.rawValue) "))
            #expect(message.contains("Ratis pipelines") && message.contains("rs-3-2-1024k"))
        }
    }

    @Test(
        "a text that is none of the forms is refused with all of them",
        arguments: [
            "", "rs-6", "three", "6-3", "rs-6-3-1024k-1", "rs-a-3-64k", "rs-3-2-0k", "raft",
        ]
    )
    func forms(text: String) {
        let error = #expect(throws: ReplicationError.self) { try ReplicationConfig(text) }
        for form in ["codec-data-parity-cell", "rs-6-3-1024k", "ratis-1", "ratis-3"] {
            #expect(error?.description.contains(form) == true, "\(form)")
        }
    }

    @Test(
        "a number of copies that is not made is refused with those that are",
        arguments: ["ratis", "ratis-2", "ratis-0", "ratis-three", "RATIS/TWO", "ratis-3-1024k"])
    func factors(text: String) {
        let error = #expect(throws: ReplicationError.self) { try ReplicationConfig(text) }
        #expect(error?.description.contains("ratis-1 and ratis-3, not '\(text)'") == true)
    }

    @Test(
        "a combination that cannot be coded is refused, however large its numbers",
        arguments: [
            "rs-0-2-64k", "rs-3-0-64k", "rs-30-3-64k", "xor-3-2-64k", "rs-3-2-1k", "rs-3-2-32768k",
            "rs--3-2-64k", "rs-9223372036854775807-1-1024k", "rs-1-9223372036854775807-1024k",
            "rs-9223372036854775807-9223372036854775807-64k", "rs-3-2-9223372036854775807k",
            "rot13-3-2-64k",
        ])
    func combinations(text: String) {
        #expect(throws: ReplicationError.self) { try ReplicationConfig(text) }
        #expect(throws: ReplicationError.self) { try ErasureCoding(text) }
    }

    @Test("a coding is some bytes that are copied as they are")
    func size() {
        func bytes<T: BitwiseCopyable>(_ type: T.Type) -> Int { MemoryLayout<T>.size }
        #expect(bytes(ErasureCoding.self) <= 32)
        #expect(bytes(ReplicationConfig.self) <= 33)
    }
}
