import ArgumentParser
import Client
import Foundation
import Model
import OMCore
import Raft
import RaftDriver
import RaftLog
import Reactor
import SCMCore
import Transport
import Wire

/// `apus om|scm --recover-alone`: goes on with one member where the majority of its group is lost
/// for good.
struct RecoverAlone {
    private let options: RoleOptions
    private let kind: ClusterRole
    private let accepts: Bool

    /// - Parameter accepts: what is lost is accepted; else it is only said what there is.
    init(_ options: RoleOptions, _ kind: ClusterRole, accepts: Bool) {
        self.options = options
        self.kind = kind
        self.accepts = accepts
    }

    func run() async throws {
        switch kind {
        case .om: try await run(OMStateMachine())
        case .scm: try await run(SCMStateMachine())
        case .datanode, .s3gateway:
            throw StoreError(.invalidArgument, "only OM and SCM are members of groups")
        }
    }

    private func run<Machine: StateMachine>(_ machine: Machine) async throws {
        let role = kind.rawValue
        let settings = try await options.settings(for: kind)
        try DirectoryOwner.check(kind, settings)
        let directory = try settings.required("\(role).directory")
        guard FileManager.default.fileExists(atPath: directory) else {
            throw StoreError(.invalidArgument, "there is no \(directory): nothing to go on with")
        }
        let runtime = try Runtime(name: role, memory: .none, reactors: 1)
        let reactor = runtime.reactors.next()
        let place = try settings.place(role)
        let addresses = try Set(settings.addresses(of: role)).subtracting([place.address])
        let lock = try await DirectoryLock(directory)
        defer { lock.release() }
        guard
            let identity = try await MemberIdentity.load(from: directory, for: place, on: reactor)
        else {
            throw StoreError(
                .invalidArgument, "\(directory) has no files of a member: nothing to go on with")
        }
        let recovery = try await GroupRecovery.open(
            directory: directory, as: identity, address: place.address, stateMachine: machine,
            on: reactor)
        let survey: RecoverySurvey
        do throws(StoreError) {
            survey = try await recovery.survey()
            print(Self.text(survey, directory))
            if !survey.isAlone {
                let views = try await Self.others(
                    addresses, survey, runtime.channels, on: reactor)
                if let refusal = Self.refusal(survey, views, role) { throw refusal }
            }
            if accepts, !survey.isAlone {
                var generator = SystemRandomNumberGenerator()
                _ = try await recovery.run(using: &generator)
            }
        } catch {
            await report(makeLogger(role, level: "info"), "closing") {
                try await recovery.close()
            }
            throw error
        }
        try await recovery.close()
        guard !survey.isAlone else {
            throw StoreError(
                .invalidArgument,
                "\(place.name) is the only member of its group already that votes: start it: apus "
                    + role)
        }
        guard accepts else {
            print("\n" + Self.advice(survey, role))
            throw ExitCode.failure
        }
        print(
            """

            \(place.name) is the only member of a new group now. Next:
              1. start it: apus \(role), as before
              2. move the directories of the others away, and start them
              3. have each added: apus admin \(role) add NAME HOST:PORT
            """)
    }

    /// What the other members say that answer, wherever they may be.
    private static func others(
        _ addresses: Set<String>, _ survey: RecoverySurvey, _ channels: ChannelPool,
        on reactor: Reactor
    ) async throws(StoreError) -> [GroupStatusResponse] {
        let known = survey.members.filter { $0.name != survey.name }.map(\.address)
        let all = addresses.union(known).subtracting([""])
        guard !all.isEmpty else { return [] }
        let client = try GroupClient(all.sorted(), channels: channels, on: reactor)
        return await client.askAll().compactMap { try? $0.view.get() }
    }

    /// Why a member may not go on alone, by what others say; nil: it may. That is so where the group
    /// could go on as it is, or has gone on as another.
    static func refusal(
        _ survey: RecoverySurvey, _ views: [GroupStatusResponse], _ role: String
    ) -> StoreError? {
        let name = survey.name
        func called(_ views: [GroupStatusResponse]) -> String {
            views.map { view in
                let member = view.members.first { $0.peer == view.peer }
                let shown = member?.name.isEmpty == false ? member?.name : nil
                return "\(shown ?? "member \(view.peer)") (\(member?.address ?? "?"))"
            }.sorted().joined(separator: ", ")
        }
        let anew =
            "move the directory of \(name) away, start it, and have it added anew: apus admin "
            + "\(role) add \(name) HOST:PORT"
        let heirs = views.filter { view in
            view.formerGroups.contains { GroupID($0) == survey.group }
        }
        guard heirs.isEmpty else {
            return StoreError(
                .conflict,
                "the group has gone on without \(name), as another: \(called(heirs)). \(anew)")
        }
        let there = views.filter {
            GroupID($0.group) == survey.group && $0.peer != survey.peer.rawValue
                && $0.disk != .failed
        }
        let isLed = there.contains { $0.leader != 0 && $0.leader != survey.peer.rawValue }
        guard isLed || survey.hasMajority(with: Set(there.map { PeerID($0.peer) })) else {
            return nil
        }
        guard survey.isBegun else {
            return StoreError(
                .conflict,
                "the group has not lost its majority: \(called(there)) would be one with \(name), "
                    + "or are one. Nothing was changed; start \(name): apus \(role). If they are "
                    + "to be given up all the same stop them first")
        }
        return StoreError(
            .conflict,
            "the group has its majority back: \(called(there)). \(name) is none of it any more since "
                + "its recovery began: \(anew)")
    }

    /// What there is, for who compares members.
    static func text(_ survey: RecoverySurvey, _ directory: String) -> String {
        func names(_ part: KnownMember.Part) -> String {
            let names = survey.members.filter { $0.part == part }.map(\.name).sorted()
            return names.isEmpty ? "none" : names.joined(separator: " ")
        }
        return """
            \(survey.name)\(survey.cluster.isEmpty ? "" : " of cluster \(survey.cluster)") in \(directory)
              last entry:  term \(survey.lastTerm), index \(survey.lastIndex)
              known to be on a majority: up to \(survey.commit)
              voters:      \(names(.voter))
              learners:    \(names(.learner))\(survey.isBegun ? "\n  a recovery was begun here, and has not ended" : "")
            """
    }

    /// What to do after a survey, of who has not accepted anything yet.
    static func advice(_ survey: RecoverySurvey, _ role: String) -> String {
        let name = survey.name
        // Nothing leads back, and the numbers may be those of the new log already.
        guard !survey.isBegun else {
            return """
                Nothing was changed now. \(name) does not start before its recovery has ended:
                  - to go on with it: apus \(role) --recover-alone --accept-loss
                  - if the majority was brought back instead, this member is none of it any more: move its
                    directory away, start it, and have it added anew: apus admin \(role) add \(name) HOST:PORT
                """
        }
        return """
            Nothing was changed. If the majority of this group can be brought back, do that instead: then
            nothing is lost. If it cannot:
              - run this command on each member that is left, and take the one with the greatest term, and
                of these the one with the greatest index. What only others had is lost.
              - see that the lost ones do not start again: two old members that come back while
                \(name) is down would go on as the old group.
              - then run it there with --accept-loss
            """
    }
}
