import Testing

@testable import apus

@Suite("Mounts")
struct MountTableTests {
    static let text = """
        26 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard,resuid=65534
        30 26 8:16 / /disks/a rw,noatime shared:2 master:1 - xfs /dev/sdb rw,attr2,noquota
        31 26 8:32 / /disks/a\\040b rw - ext4 /dev/sdc rw,discard
        32 26 0:20 / /proc rw - proc proc rw
        33 30 8:48 / /disks/a/inner rw - ext4 /dev/sdd rw,nodiscard
        34 30 8:64 / /disks/a/inner rw - ext4 /dev/sde rw,discard
        nonsense
        """
    let table = MountTable(parsing: text)

    @Test(
        "a path lies on the mount with the longest point, the last of several",
        arguments: [
            ("/var/lib", "/", "ext4"), ("/", "/", "ext4"), ("/disks/a", "/disks/a", "xfs"),
            ("/disks/a/v1", "/disks/a", "xfs"), ("/disks/ab", "/", "ext4"),
            ("/disks/a b/v1", "/disks/a b", "ext4"), ("/disks/a/inner/x", "/disks/a/inner", "ext4"),
        ])
    func finding(path: String, point: String, type: String) {
        #expect(table.mounts.count == 6)
        #expect(table.mount(of: path)?.point == point)
        #expect(table.mount(of: path)?.type == type)
    }

    @Test("a mount that trims at each deletion is told of, and no other")
    func discard() {
        let remarks = table.remarks(
            on: ["/disks/a/v1", "/disks/a b/v1", "/disks/a/inner/v1", "/disks/a b/v2"])
        #expect(remarks.count == 2)
        #expect(
            remarks[0].hasPrefix(
                "/disks/a b, which holds /disks/a b/v1, /disks/a b/v2, is mounted with discard"))
        #expect(remarks[1].hasPrefix("/disks/a/inner, which holds /disks/a/inner/v1, is mounted"))
        #expect(MountTable(parsing: "").remarks(on: ["/disks/a"]) == [])
    }

    @Test("this machine has a root")
    func current() {
        #expect(MountTable.current().mount(of: "/")?.point == "/")
    }
}
