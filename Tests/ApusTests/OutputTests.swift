import Foundation
import Testing

@testable import apus

/// What terminals and programs are given.
@Suite("Output")
struct OutputTests {
    @Test(
        "what a terminal obeys, and what it hides, is written out",
        arguments: [
            ("plain name.txt", "plain name.txt"),
            ("größe 鍵 🔑", "größe 鍵 🔑"),
            ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
            ("\u{1B}[2Jgone", "\\u{1B}[2Jgone"),
            ("\u{1B}]0;title\u{07}", "\\u{1B}]0;title\\u{7}"),
            ("\u{9B}31mred", "\\u{9B}31mred"),
            ("a\u{7F}b", "a\\u{7F}b"),
            ("txt.\u{202E}gpj", "txt.\\u{202E}gpj"),
            ("\u{2066}x\u{2069}", "\\u{2066}x\\u{2069}"),
            ("a\u{200B}b\u{FEFF}", "a\\u{200B}b\\u{FEFF}"),
            ("a\u{2028}b", "a\\u{2028}b"),
            ("\u{E0041}", "\\u{E0041}"),
        ])
    func escapes(text: String, expected: String) {
        #expect(Escaping.escaped(text) == expected)
    }

    @Test("two names never look the same for their escapes")
    func unambiguous() {
        #expect(Escaping.escaped("\\n") == "\\\\n")
        #expect(Escaping.escaped("\n") != Escaping.escaped("\\n"))
        #expect(Escaping.escaped("\\u{1B}") != Escaping.escaped("\u{1B}"))
    }

    @Test("lines of a message stay lines, what is hidden in them does not")
    func lines() {
        #expect(
            Escaping.escapedLines("Error: '\u{1B}[2J'\nUsage: a\\b\n")
                == "Error: '\\u{1B}[2J'\nUsage: a\\b\n")
    }

    @Test("JSON means what it says and holds nothing that a terminal obeys or hides")
    func jsonText() throws {
        let names = ["\u{1B}[2J", "\u{9B}31m", "a\u{202E}b", "\u{E0041}", "größe/鍵"]
        let text = try json(names, isPretty: false)
        #expect(!text.unicodeScalars.contains(where: Escaping.isHidden))
        #expect(text.contains("größe/鍵"))
        #expect(try JSONDecoder().decode([String].self, from: Data(text.utf8)) == names)
    }

    @Test("columns are as wide as their widest entry")
    func table() {
        #expect(
            Table.lines(["name", "size"], [["a", "1"], ["longer", "22"]])
                == ["NAME    SIZE", "a       1", "longer  22"])
        #expect(Table.lines(["name"], []) == ["NAME"])
    }

    @Test("a listing's key comes last, and pushes nothing")
    func listing() {
        let short = KeyRow.columns(
            "1", "2026-11-28T00:00:00Z", String(repeating: "e", count: 32), "k")
        let long = KeyRow.columns("12345678901234", "-", "-", "k")
        #expect(short.firstRange(of: "k")?.lowerBound == long.firstRange(of: "k")?.lowerBound)
    }

    @Test("progress tells part, rate and what is left")
    func progress() {
        #expect(
            ByteProgress.text("put k", done: 512 << 20, total: 1 << 30, .seconds(2))
                == "put k 50 % of 1.0 GiB, 256.0 MiB/s, 2 s left")
        #expect(
            ByteProgress.text("put -", done: 1 << 20, total: nil, .seconds(1))
                == "put - 1.0 MiB, 1.0 MiB/s")
    }

    @Test("bytes and counts read as people write them")
    func numbers() {
        #expect(formatBytes(0) == "0 B")
        #expect(formatBytes(1023) == "1023 B")
        #expect(formatBytes(1536) == "1.5 KiB")
        #expect(counted(1, "key") == "1 key")
        #expect(counted(2, "key") == "2 keys")
    }
}
