import ArgumentParser
import Configuration
import Foundation
import Model
import Testing

@testable import apus

@Suite("A cluster that is set up")
struct ClusterPlanTests {
    private func hosts(_ count: Int) -> [ClusterPlan.Host] {
        (1...count).map {
            .init(name: "host\($0)", address: "10.0.0.\($0)", rack: nil, volumes: ["/disks/1"])
        }
    }

    private func refusal(
        id: String = "prod", replication: String? = nil, _ hosts: [ClusterPlan.Host],
        _ members: [ClusterRole: [String]] = [:]
    ) -> String {
        do throws(StoreError) {
            _ = try ClusterPlan(id: id, replication: replication, hosts: hosts, members: members)
            return "none"
        } catch {
            return error.message
        }
    }

    @Test("three hosts have groups of three, and what is written is what each of them finds")
    func threeHosts() throws {
        let plan = try ClusterPlan(id: "prod", replication: nil, hosts: hosts(3), members: [:])
        #expect("\(plan.replication)" == "xor-2-1-1024k")
        let file = try SettingsFile("FILE", plan.encoded())
        #expect(file.hosts.keys.sorted() == ["host1", "host2", "host3"])
        for host in ["host1", "host2", "host3"] {
            #expect(file.roles(of: host) == [.om, .scm, .datanode, .s3gateway])
        }
        #expect(file.hosts["host2"]?["om.id"] == .string("om2"))
        #expect(
            file.common["scm.addresses"]
                == .stringArray(["scm1=10.0.0.1:9863", "scm2=10.0.0.2:9863", "scm3=10.0.0.3:9863"]))
        #expect(file.common["cluster.id"] == .string("prod"))
    }

    @Test("five hosts have three members of each group, and the steps name each host's units")
    func fiveHosts() throws {
        let plan = try ClusterPlan(id: "prod", replication: nil, hosts: hosts(5), members: [:])
        #expect("\(plan.replication)" == "rs-3-2-1024k")
        #expect(
            InitSteps.units(of: "host1", plan)
                == ["apus-om", "apus-scm", "apus-datanode", "apus-s3gateway@9878"])
        #expect(
            InitSteps.units(of: "host5", plan) == ["apus-datanode", "apus-s3gateway@9878"])
        let lines = InitSteps.lines(plan, file: SettingsFile.standardPath)
        #expect(lines.count { $0.contains("--init") } == 6)
        #expect(lines.count { $0.contains("systemctl enable --now") } == 5)
    }

    @Test("what cannot be right is refused, with what would be")
    func refusals() {
        #expect(refusal(hosts(2)).hasPrefix("2 datanodes: too few for a replication"))
        #expect(
            refusal(replication: "rs-6-3-1024k", hosts(5))
                == "rs-6-3-1024k needs 9 datanodes, and there are 5; rs-3-2-1024k would do")
        #expect(
            refusal(hosts(3), [.om: ["host1", "host2"]])
                == "om: a group of 2 survives no more losses than one of 1: have 1, 3, 5 or 7 "
                + "(here 1 or 3)")
        #expect(
            refusal(hosts(3), [.scm: ["host9"]])
                == "scm: there is no host host9; there are: host1 host2 host3")
        #expect(refusal(hosts(3), [.om: ["host1", "host1", "host2"]]).contains("named twice"))
        #expect(refusal(id: "a b", hosts(3)).contains("not 'a b'"))
        var changed = hosts(3)
        changed[1].address = "127.0.0.1"
        #expect(refusal(changed).hasPrefix("host2: the others do not reach it at 127.0.0.1"))
        changed = hosts(3)
        changed[1].address = "10.0.0.1"
        #expect(refusal(changed) == "host1 and host2 have the same address, 10.0.0.1")
        changed = hosts(3)
        changed[1].name = "host1"
        #expect(refusal(changed, [.datanode: ["host1"]]) != "none")
        changed = hosts(3)
        changed[2].volumes = []
        #expect(refusal(changed).hasPrefix("host3: a datanode has one directory a disk"))
        changed[2].volumes = ["disks/1"]
        #expect(refusal(changed).hasPrefix("host3: 'disks/1' is no full path"))
    }

    @Test("questions make what flags make, and a wrong answer is asked for again")
    func questions() throws {
        var lines = [
            "", "host1=10.0.0.1", "host2", "host2=10.0.0.2", "host3=10.0.0.3", "", "disks",
            "/disks/1,/disks/2", "rs-99", "",
        ]
        var said = ""
        let questions = ClusterQuestions(
            read: { lines.isEmpty ? nil : lines.removeFirst() }, write: { said += $0 })
        var asked = try InitCommand.Write.parse(["--cluster-id", "prod"])
        lines.removeFirst()
        try asked.ask(questions)
        let told = try InitCommand.Write.parse([
            "--cluster-id", "prod", "--host", "host1=10.0.0.1", "--host", "host2=10.0.0.2",
            "--host", "host3=10.0.0.3", "--volume", "/disks/1", "--volume", "/disks/2",
        ])
        #expect(try asked.plan().encoded() == told.plan().encoded())
        #expect(said.contains("--host takes NAME=VALUE"))
        #expect(said.contains("full paths, beginning with /"))
        #expect(lines.isEmpty)
    }

    @Test("questions without an end of answers write nothing")
    func endOfInput() throws {
        var command = try InitCommand.Write.parse([])
        let questions = ClusterQuestions(read: { nil }, write: { _ in })
        let error = #expect(throws: StoreError.self) { try command.ask(questions) }
        #expect(error?.code == .cancelled)
    }

    @Test("a unit is told of directories outside /var/lib/apus, in systemd's quotes")
    func unitPaths() {
        #expect(UnitPaths.text(["/var/lib/apus/om"], volumes: []) == nil)
        let text = UnitPaths.text(
            ["/srv/own", "/disks/1", "/disks/a 100%"], volumes: ["/disks/1", "/disks/a 100%"])
        #expect(text?.contains(#"RequiresMountsFor="/srv/own""# + "\n") == true)
        // A disk that is broken takes no other out.
        #expect(
            text?.contains(#"Wants=disks.mount disks-1.mount disks-a\x20100\x25.mount"#) == true)
        #expect(
            text?.contains(#"After=disks.mount disks-1.mount disks-a\x20100\x25.mount"#) == true)
        #expect(
            text?.contains(#"ReadWritePaths="-/srv/own" "-/disks/1" "-/disks/a 100%%""#) == true)
        #expect(UnitPaths.mountUnit("/a-b/.c") == #"a\x2db-.c.mount"#)
    }

    @Test("a volume below the mount of its disk waits for that mount, whichever it is")
    func mountsAbove() {
        let text = UnitPaths.text(
            ["/mnt/a/apus/v1", "/mnt/a/apus/v2", "/x"],
            volumes: ["/mnt/a/apus/v1", "/mnt/a/apus/v2", "/x"])
        let units =
            "mnt.mount mnt-a.mount mnt-a-apus.mount mnt-a-apus-v1.mount mnt-a-apus-v2.mount x.mount"
        #expect(text?.contains("Wants=\(units)\n") == true, "\(text ?? "")")
        #expect(text?.contains("After=\(units)\n") == true)
        // The root is mounted.
        #expect(text?.contains("-.mount") == false)
        // What is above the package's directory the units of the package name.
        let below = UnitPaths.text(["/var/lib/apus/disk1"], volumes: ["/var/lib/apus/disk1"])
        #expect(below?.contains("After=var-lib-apus-disk1.mount\n") == true, "\(below ?? "")")
        #expect(below?.contains("ReadWritePaths") == false)
    }
}
