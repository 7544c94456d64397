/// Writes XML forward into one byte array: what lists of a thousand keys are made with.
///
/// Text is escaped; control characters that XML 1.0 has no place for are written as numeric
/// references, as S3 does.
struct XMLWriter {
    private(set) var bytes: [UInt8] = []

    static let namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

    /// The first line of every document.
    static let prologue = Array("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".utf8)

    /// Begins a document.
    /// - Parameter capacity: bytes expected.
    init(capacity: Int = 512) {
        bytes.reserveCapacity(capacity)
        bytes.append(contentsOf: Self.prologue)
    }

    /// An element with what `content` writes inside.
    mutating func element(
        _ name: StaticString, namespace: Bool = false, _ content: (inout XMLWriter) throws -> Void
    ) rethrows {
        open(name, namespace: namespace)
        try content(&self)
        close(name)
    }

    /// An element with attributes, given as they are written behind its name.
    mutating func element(
        _ name: StaticString, attributes: StaticString,
        _ content: (inout XMLWriter) throws -> Void
    ) rethrows {
        raw("<")
        raw(name)
        raw(" ")
        raw(attributes)
        raw(">")
        try content(&self)
        close(name)
    }

    /// An element with text.
    mutating func element(_ name: StaticString, _ text: String) {
        open(name)
        var text = text
        text.withUTF8 { escape($0) }
        close(name)
    }

    mutating func element(_ name: StaticString, _ value: Int) { element(name, String(value)) }
    mutating func element(_ name: StaticString, _ value: Bool) {
        element(name, value ? "true" : "false")
    }

    /// Text inside the element that is being written.
    mutating func text(_ text: String) {
        var text = text
        text.withUTF8 { escape($0) }
    }

    /// An element with text that is UTF-8 already.
    mutating func element(_ name: StaticString, utf8: [UInt8]) {
        open(name)
        utf8.withUnsafeBufferPointer { escape($0) }
        close(name)
    }

    /// An element, if there is a value.
    mutating func element(_ name: StaticString, ifPresent text: String?) {
        if let text { element(name, text) }
    }

    /// An element whose name is known at run time only, as in an error's details.
    mutating func element(named name: String, _ text: String) {
        raw("<")
        bytes.append(contentsOf: name.utf8)
        raw(">")
        var text = text
        text.withUTF8 { escape($0) }
        raw("</")
        bytes.append(contentsOf: name.utf8)
        raw(">")
    }

    private mutating func open(_ name: StaticString, namespace: Bool = false) {
        raw("<")
        raw(name)
        if namespace {
            raw(" xmlns=\"")
            bytes.append(contentsOf: Self.namespace.utf8)
            raw("\"")
        }
        raw(">")
    }

    private mutating func close(_ name: StaticString) {
        raw("</")
        raw(name)
        raw(">")
    }

    private mutating func raw(_ text: StaticString) {
        bytes.append(
            contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    private mutating func escape(_ text: UnsafeBufferPointer<UInt8>) {
        for byte in text {
            switch byte {
            case UInt8(ascii: "&"): raw("&amp;")
            case UInt8(ascii: "<"): raw("&lt;")
            case UInt8(ascii: ">"): raw("&gt;")
            case UInt8(ascii: "\""): raw("&quot;")
            case 0..<0x20 where byte != 0x0A && byte != 0x09, 0x7F:
                bytes.append(contentsOf: "&#x\(String(byte, radix: 16));".utf8)
            default: bytes.append(byte)
            }
        }
    }
}
