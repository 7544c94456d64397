/// An element of a request's XML: its local name, its text, its children.
struct XMLElement: Equatable {
    var name: String
    /// The text directly inside, without that of children.
    var text = ""
    var children: [XMLElement] = []

    /// The first child of this name.
    func child(_ name: String) -> XMLElement? { children.first { $0.name == name } }
}

/// Why a document was refused, in words.
struct XMLError: Error, Equatable {
    var message: String
    init(_ message: String) { self.message = message }
}

/// Reads the small part of XML that S3's requests are written in.
///
/// Elements, attributes (passed over), text, the five named and the numeric references, comments,
/// CDATA sections and processing instructions. A document type declaration is refused, and with
/// it every entity that a request could define. Namespaces are dropped.
struct XMLReader {
    enum Limits {
        /// The largest document: the 10,000 parts of a completion with two checksums each fit.
        static let documentBytes = 4 << 20
        static let depth = 16
        static let elements = 100_000
    }

    private let input: [UInt8]
    private var position = 0
    private var elementCount = 0

    private init(_ input: [UInt8]) { self.input = input }

    /// The root element of `document`.
    static func parse(_ document: [UInt8]) throws(XMLError) -> XMLElement {
        guard document.count <= Limits.documentBytes else {
            throw XMLError("a document has at most \(Limits.documentBytes) bytes")
        }
        guard String(validating: document, as: UTF8.self) != nil else {
            throw XMLError("the document is not UTF-8")
        }
        var reader = XMLReader(document)
        reader.skipByteOrderMark()
        try reader.skipMisc()
        guard reader.peek() == UInt8(ascii: "<") else {
            throw XMLError("the document has no root element")
        }
        let root = try reader.element(depth: 1)
        try reader.skipMisc()
        guard reader.position == reader.input.count else {
            throw XMLError("there is something behind the root element")
        }
        return root
    }

    private func peek(_ ahead: Int = 0) -> UInt8? {
        position + ahead < input.count ? input[position + ahead] : nil
    }

    private func starts(with text: StaticString) -> Bool {
        let count = text.utf8CodeUnitCount
        guard position + count <= input.count else { return false }
        return (0..<count).allSatisfy { input[position + $0] == text.utf8Start[$0] }
    }

    private mutating func skipByteOrderMark() {
        if input.starts(with: [0xEF, 0xBB, 0xBF]) { position = 3 }
    }

    private mutating func skipSpace() {
        while let byte = peek(), Self.isSpace(byte) { position += 1 }
    }

    /// Passes over everything up to and including `end`.
    private mutating func skip(through end: StaticString, what: String) throws(XMLError) {
        while position < input.count {
            if starts(with: end) {
                position += end.utf8CodeUnitCount
                return
            }
            position += 1
        }
        throw XMLError("a \(what) does not end")
    }

    /// White space, comments and processing instructions outside of the root.
    private mutating func skipMisc() throws(XMLError) {
        while true {
            skipSpace()
            if starts(with: "<?") {
                try skip(through: "?>", what: "processing instruction")
            } else if starts(with: "<!--") {
                try skip(through: "-->", what: "comment")
            } else if starts(with: "<!") {
                throw XMLError("document type declarations are refused")
            } else {
                return
            }
        }
    }

    /// Precondition: the position is at `<` of a start tag.
    private mutating func element(depth: Int) throws(XMLError) -> XMLElement {
        guard depth <= Limits.depth else {
            throw XMLError("elements are nested more than \(Limits.depth) deep")
        }
        elementCount += 1
        guard elementCount <= Limits.elements else {
            throw XMLError("there are more than \(Limits.elements) elements")
        }
        position += 1
        let qualified = try name()
        var element = XMLElement(name: Self.localName(qualified))
        if try skipAttributes() { return element }
        try content(of: &element, depth: depth)
        let end = try name()
        guard end == qualified else {
            throw XMLError("element '\(qualified)' is closed as '\(end)'")
        }
        skipSpace()
        guard peek() == UInt8(ascii: ">") else { throw XMLError("an end tag does not end") }
        position += 1
        return element
    }

    /// Reads up to and including the `</` of the end tag.
    private mutating func content(
        of element: inout XMLElement, depth: Int
    ) throws(XMLError) {
        var text: [UInt8] = []
        while let byte = peek() {
            if byte == UInt8(ascii: "&") {
                try reference(into: &text)
            } else if byte != UInt8(ascii: "<") {
                text.append(byte)
                position += 1
            } else if starts(with: "</") {
                position += 2
                element.text = String(decoding: text, as: UTF8.self)
                return
            } else if starts(with: "<!--") {
                try skip(through: "-->", what: "comment")
            } else if starts(with: "<![CDATA[") {
                position += 9
                let start = position
                try skip(through: "]]>", what: "CDATA section")
                text.append(contentsOf: input[start..<position - 3])
            } else if starts(with: "<?") {
                try skip(through: "?>", what: "processing instruction")
            } else if starts(with: "<!") {
                throw XMLError("declarations are refused")
            } else {
                element.children.append(try self.element(depth: depth + 1))
            }
        }
        throw XMLError("element '\(element.name)' is not closed")
    }

    /// Passes over attributes. Returns whether the element is empty (`/>`).
    private mutating func skipAttributes() throws(XMLError) -> Bool {
        while true {
            skipSpace()
            switch peek() {
            case UInt8(ascii: ">"):
                position += 1
                return false
            case UInt8(ascii: "/"):
                guard peek(1) == UInt8(ascii: ">") else { throw XMLError("a tag does not end") }
                position += 2
                return true
            case nil:
                throw XMLError("a tag does not end")
            default:
                _ = try name()
                skipSpace()
                guard peek() == UInt8(ascii: "=") else {
                    throw XMLError("an attribute has no value")
                }
                position += 1
                skipSpace()
                guard let quote = peek(), quote == UInt8(ascii: "\"") || quote == UInt8(ascii: "'")
                else { throw XMLError("an attribute's value is not quoted") }
                position += 1
                while let byte = peek(), byte != quote { position += 1 }
                guard peek() == quote else { throw XMLError("an attribute's value does not end") }
                position += 1
            }
        }
    }

    private mutating func name() throws(XMLError) -> String {
        let start = position
        while let byte = peek(), Self.isNameByte(byte) { position += 1 }
        guard position > start else { throw XMLError("a name is missing") }
        return String(decoding: input[start..<position], as: UTF8.self)
    }

    /// `&amp;` and the like. Precondition: the position is at `&`.
    private mutating func reference(into text: inout [UInt8]) throws(XMLError) {
        let start = position + 1
        var end = start
        while end < input.count, end - start <= 10, input[end] != UInt8(ascii: ";") { end += 1 }
        guard end < input.count, input[end] == UInt8(ascii: ";") else {
            throw XMLError("a reference does not end")
        }
        let name = String(decoding: input[start..<end], as: UTF8.self)
        position = end + 1
        switch name {
        case "amp": text.append(UInt8(ascii: "&"))
        case "lt": text.append(UInt8(ascii: "<"))
        case "gt": text.append(UInt8(ascii: ">"))
        case "quot": text.append(UInt8(ascii: "\""))
        case "apos": text.append(UInt8(ascii: "'"))
        default:
            guard let scalar = Self.scalar(name) else {
                throw XMLError("'&\(name);' is not one of the references that are known")
            }
            text.append(contentsOf: String(Character(scalar)).utf8)
        }
    }

    private static func scalar(_ reference: String) -> Unicode.Scalar? {
        guard reference.hasPrefix("#") else { return nil }
        let digits = reference.dropFirst()
        let value =
            digits.hasPrefix("x") ? UInt32(digits.dropFirst(), radix: 16) : UInt32(digits)
        guard let value, value != 0 else { return nil }
        return Unicode.Scalar(value)
    }

    private static func localName(_ qualified: String) -> String {
        guard let colon = qualified.firstIndex(of: ":") else { return qualified }
        return String(qualified[qualified.index(after: colon)...])
    }

    private static func isSpace(_ byte: UInt8) -> Bool {
        byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: ":"), UInt8(ascii: "_"),
            UInt8(ascii: "-"), UInt8(ascii: "."), 0x80...:
            true
        default: false
        }
    }
}
