import Model
import Testing

@testable import ContainerFormat

@Suite("Disk profile and scrub times")
struct DiskProfileTests {
    private let profile = DiskProfile(
        measuredAt: 1_700_000_000_000, readBandwidth: 3_000_000_000, writeBandwidth: 1_000_000_000,
        readIOPS: 200_000, writeIOPS: 90_000, overwriteSyncMicroseconds: 34,
        newExtentSyncMicroseconds: 120, depth: 64, bytesInFlight: 16 << 20, operationBytes: 15_000,
        client: .init(depth: 64, weight: 70), repair: .init(depth: 64, weight: 15),
        scrub: .init(depth: 32, weight: 7), background: .init(depth: 32, weight: 8),
        syncDelayMicroseconds: 0)

    @Test("a profile reads back as it was written")
    func roundTrip() throws {
        #expect(try DiskProfile(parsing: profile.encoded()) == profile)
        #expect(profile.encoded().count <= DiskProfile.largestSize)
        let times = ScrubTimes(verified: [ContainerID(7): 12, ContainerID(1): -5])
        #expect(try ScrubTimes(parsing: times.encoded()) == times)
        #expect(try ScrubTimes(parsing: ScrubTimes().encoded()) == ScrubTimes())
    }

    @Test("an unknown version is refused by its number, before anything else is looked at")
    func version() {
        #expect(
            throws: FormatError.unknownVersion(
                of: "volume's disk profile", found: 7,
                known: DiskProfile.version...DiskProfile.version)
        ) { try DiskProfile(parsing: Array("apus-disk 7\nwhatever".utf8)) }
        #expect(throws: FormatError.notA("volume's disk profile")) {
            try DiskProfile(parsing: Array("hello".utf8))
        }
    }

    @Test("a profile with a changed byte anywhere is refused")
    func flipped() {
        let bytes = profile.encoded()
        for index in bytes.indices {
            var damaged = bytes
            damaged[index] ^= 4
            #expect(throws: FormatError.self) { try DiskProfile(parsing: damaged) }
        }
        for count in bytes.indices {
            #expect(throws: FormatError.self) { try DiskProfile(parsing: Array(bytes[..<count])) }
        }
    }

    @Test("fields out of their range are refused by name")
    func ranges() {
        var wrong = profile
        wrong.depth = 5000
        let error = #expect(throws: FormatError.self) {
            try DiskProfile(parsing: wrong.encoded())
        }
        #expect(error?.description.contains("depth") == true)
    }
}
