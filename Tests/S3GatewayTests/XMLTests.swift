import Chance
import Testing

@testable import S3Gateway

@Suite struct XMLTests {
    private func refusal(_ text: String) -> String? {
        do throws(XMLError) {
            _ = try XMLReader.parse(Array(text.utf8))
            return nil
        } catch {
            return error.message
        }
    }

    @Test("reads what the SDKs write")
    func documents() throws {
        let text = """
            <?xml version="1.0" encoding="UTF-8"?>
            <!-- by hand -->
            <s3:Delete xmlns:s3="http://s3.amazonaws.com/doc/2006-03-01/" a='1'>
              <Quiet>true</Quiet><Empty/><Object><Key>a&lt;b&amp;&#x63;&#100; &quot;e'</Key>
              </Object><Object><Key><![CDATA[<raw>&]]></Key></Object>
            </s3:Delete>
            """
        let root = try XMLReader.parse(Array(text.utf8))
        #expect(root.name == "Delete")
        #expect(root.children.map(\.name) == ["Quiet", "Empty", "Object", "Object"])
        #expect(root.children[2].child("Key")?.text == "a<b&cd \"e'")
        #expect(root.children[3].child("Key")?.text == "<raw>&")
        #expect(root.child("Quiet")?.text == "true")
        #expect(root.child("None") == nil)
    }

    @Test(
        "refuses what is not well-formed, and every declaration",
        arguments: [
            "", "text", "<a>", "<a></b>", "<a", "<a/><b/>", "<a/>x", "<a b></a>", "<a b=c></a>",
            "<a b='c></a>", "<a>&other;</a>", "<a>&#0;</a>", "<a>&#xD800;</a>", "<a>&amp</a>",
            "<!DOCTYPE a><a/>", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
            "<a><!ENTITY x 'y'></a>",
            "<a><![CDATA[x</a>", "<a><!-- x</a>", "<?xml", "< a/>", "<a / >", "<a></a",
        ])
    func refusals(text: String) { #expect(refusal(text) != nil, "\(text)") }

    @Test("bounds the depth, the elements and the size")
    func bounds() {
        let deep = String(repeating: "<a>", count: 1000)
        #expect(refusal(deep)?.contains("deep") == true)
        let wide = "<a>\(String(repeating: "<b/>", count: 100_001))</a>"
        #expect(refusal(wide)?.contains("elements") == true)
        let large = "<a>\(String(repeating: "x", count: 5 << 20))</a>"
        #expect(refusal(large)?.contains("bytes") == true)
        #expect(refusal("<a>\u{FFFD}</a>") == nil)
        do throws(XMLError) {
            _ = try XMLReader.parse([0x3C, 0x61, 0x3E, 0xFF, 0x3C, 0x2F, 0x61, 0x3E])
            Issue.record("took bytes that are not UTF-8")
        } catch { #expect(error.message.contains("UTF-8")) }
    }

    @Test("changed documents never trap", arguments: 0..<500)
    func mutations(seed: Int) {
        var random = SeededGenerator(seed: UInt64(seed))
        var bytes = Array(
            "<?xml version='1.0'?><D a=\"b\"><O><K>x&amp;&#65;</K></O><![CDATA[y]]><!--z--></D>"
                .utf8)
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            bytes[Int.random(in: 0..<bytes.count, using: &random)] =
                Array("<>&;/!?-[]='\"ab#x\u{0}".utf8).randomElement(using: &random) ?? 0
        }
        do throws(XMLError) {
            let root = try XMLReader.parse(bytes)
            #expect(!root.name.isEmpty)
        } catch {
            #expect(!error.message.isEmpty)
        }
    }

    @Test("what is written can be read, odd characters included")
    func roundTrip() throws {
        let text = "a<b>&\"'\r\n\t\u{1F600} ü"
        var xml = XMLWriter()
        xml.element("Root", namespace: true) { xml in
            xml.element("Text", text)
            xml.element("Bytes", utf8: Array(text.utf8))
            xml.element("Number", -5)
            xml.element("Flag", true)
            xml.element("Absent", ifPresent: nil)
        }
        let root = try XMLReader.parse(xml.bytes)
        #expect(root.child("Text")?.text == text)
        #expect(root.child("Bytes")?.text == text)
        #expect(root.child("Number")?.text == "-5")
        #expect(root.child("Flag")?.text == "true")
        #expect(root.child("Absent") == nil)
        var control = XMLWriter()
        control.element("K", "a\u{1}b")
        #expect(String(decoding: control.bytes, as: UTF8.self).contains("a&#x1;b"))
    }
}
