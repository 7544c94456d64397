import Foundation
import Testing

/// `Tests/Transcripts/raft`: what members say to each other, in text.
///
/// With `APUS_TRANSCRIPTS_WRITE=1` the answers given are written into the files, to be read by
/// whoever changed them.
@Suite("RaftTranscript")
struct RaftTranscriptTests {
    private static let folder = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Transcripts/raft")

    private static var files: [URL] {
        get throws {
            try FileManager.default.contentsOfDirectory(atPath: folder.path)
                .filter { $0.hasSuffix(".txt") }.sorted()
                .map { folder.appendingPathComponent($0) }
        }
    }

    @Test("members answer every command of the transcripts as written")
    func transcripts() throws {
        let isWriting = ProcessInfo.processInfo.environment["APUS_TRANSCRIPTS_WRITE"] == "1"
        let files = try Self.files
        var steps = 0
        for url in files {
            let transcript = try Transcript(contentsOf: url)
            var group = TranscriptGroup()
            let result = transcript.run { command in
                steps += 1
                return group.answer(command)
            }
            if isWriting {
                try result.text.write(to: url, atomically: true, encoding: .utf8)
                continue
            }
            for difference in result.differences {
                Issue.record(
                    """
                    \(url.lastPathComponent):\(difference.line)
                    expected:
                    \(difference.expected.joined(separator: "\n"))
                    answered:
                    \(difference.answer.joined(separator: "\n"))
                    """)
            }
        }
        print("transcripts: \(files.count) files, \(steps) steps")
        #expect(files.count >= 15)
    }
}
