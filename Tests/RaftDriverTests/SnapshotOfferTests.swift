import Raft
import Testing

@testable import RaftDriver

@Suite("Which snapshot others are given, and until when")
struct SnapshotOfferTests {
    private let two = ConfState(voters: [1, 2])
    private let three = ConfState(voters: [1, 2, 3])

    private func offered(_ index: LogIndex = 10) -> SnapshotOffer {
        var offer = SnapshotOffer()
        offer.beginWriting((two, 1), from: index)
        offer.offer(index)
        offer.endWriting()
        return offer
    }

    @Test("one is written where none is new enough, and nobody is being given the one there is")
    func writing() {
        var offer = SnapshotOffer()
        #expect(!offer.mustWrite(nil) && offer.mustWrite(5))
        offer.beginWriting((two, 1), from: 7)
        #expect(!offer.mustWrite(5))
        offer.offer(8)
        offer.endWriting()
        #expect(!offer.mustWrite(8) && offer.mustWrite(9))
        let begins = [offer.begin(2), offer.begin(2)]
        #expect(begins == [true, false])
        #expect(!offer.mustWrite(9))
        offer.end(2, isDelivered: false)
        #expect(offer.mustWrite(9))
    }

    @Test("it names the members after its last entry, however many changes come meanwhile")
    func members() {
        var offer = SnapshotOffer()
        offer.beginWriting((two, 4), from: 5)
        offer.membersChanged(to: three, at: 8)
        offer.membersChanged(to: two, at: 11)
        #expect(offer.members(at: 3) == nil)
        #expect(offer.members(at: 7) == two && offer.members(at: 9) == three)
        #expect(offer.members(at: 11) == two)
        offer.endWriting()
        offer.membersChanged(to: three, at: 12)
        #expect(offer.members(at: 12) == nil, "nothing is being written")
    }

    @Test("it is taken back when all have it, nobody can take it, another leads or patience ends")
    func takingBack() {
        var offer = offered()
        _ = offer.begin(2)
        offer.isNeeded(by: 2)
        #expect(!offer.isDone(isLeader: true) && !offer.isDone(isLeader: false))
        offer.end(2, isDelivered: false)
        #expect(!offer.isDone(isLeader: true) && offer.isDone(isLeader: false))
        let early = (0..<4).map { _ in offer.tick(isLeader: true, patience: 5) }
        #expect(early.allSatisfy { !$0 })
        #expect(!offer.isDone(isLeader: true), "it goes on with what it has")
        var other = offer
        other.isOutdated = true
        #expect(other.isDone(isLeader: true))
        other = offer
        _ = other.begin(2)
        other.end(2, isDelivered: true)
        #expect(other.isDone(isLeader: true))
        let isDue = offer.tick(isLeader: true, patience: 5)
        #expect(isDue && offer.isDone(isLeader: true))
        // Who asked for it comes a little later: it is not taken back before.
        var fresh = offered()
        let isDueAtOnce = fresh.tick(isLeader: true, patience: 5)
        #expect(!isDueAtOnce)
    }

    @Test("the log waits for who has got it until that has caught up, or is silent for long")
    func log() {
        var offer = SnapshotOffer()
        #expect(offer.needed == nil)
        offer.beginWriting((two, 1), from: 7)
        #expect(offer.needed == 7, "its index is not known yet")
        offer.offer(10)
        offer.endWriting()
        _ = offer.begin(2)
        offer.end(2, isDelivered: true)
        offer.withdraw()
        #expect(offer.needed == 10)
        let last = 20 + RaftMemberLimits.caughtUp
        var match: LogIndex = 0
        func look(_ isActive: Bool = true) {
            offer.lookAtInstalling(last: last, patience: 3) { _ in (match, isActive) }
        }
        look()
        #expect(offer.needed == 10)
        match = 15
        look()
        #expect(offer.needed == 15)
        var silent = offer
        for _ in 0..<3 {
            #expect(silent.needed == 15)
            silent.lookAtInstalling(last: last, patience: 3) { _ in (15, false) }
        }
        #expect(silent.needed == nil)
        match = 20
        look()
        #expect(offer.needed == nil)
    }
}
