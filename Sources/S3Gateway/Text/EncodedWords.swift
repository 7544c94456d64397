/// Text that is not ASCII in a header, as mail writes it (RFC 2047): `=?UTF-8?B?…?=`.
///
/// S3 answers with user metadata in this form, since a header's bytes have no encoding that both
/// ends would know. Text of ASCII goes as it is, and so does what was sent as such a word.
enum EncodedWords {
    /// The most characters of one word, delimiters included.
    private static let wordLimit = 75
    private static let head = "=?UTF-8?B?"
    private static let tail = "?="
    /// UTF-8 of one word: what fits in groups of three, each of four characters.
    private static let bytesOfWord = (wordLimit - head.utf8.count - tail.utf8.count) / 4 * 3

    /// `text` if it is ASCII; otherwise words that it is read from again, each of whole
    /// characters, with spaces between them that do not count.
    static func encode(_ text: String) -> String {
        if text.utf8.allSatisfy({ $0 < 0x80 }) { return text }
        var words: [String] = []
        var word: [UInt8] = []
        for scalar in text.unicodeScalars {
            let bytes = Array(UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
            if word.count + bytes.count > bytesOfWord {
                words.append("\(head)\(Base64.encode(word))\(tail)")
                word = []
            }
            word += bytes
        }
        words.append("\(head)\(Base64.encode(word))\(tail)")
        return words.joined(separator: " ")
    }
}
