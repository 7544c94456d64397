import Foundation

/// Names and messages as a terminal may show them.
///
/// Names of volumes, buckets, keys and users, ETags and whatever else others chose can hold bytes
/// that a terminal obeys: control characters and escape sequences move the cursor, clear the
/// screen, set its title; bidirectional overrides show a name in another order than it has. So what
/// goes to a terminal is escaped; files, pipes and `--json` get it as it is.
enum Escaping {
    /// `text` with everything that a terminal does not show as itself written as Swift would:
    /// `\n`, `\t`, `\u{202E}`; and `\` doubled, so that what is shown stands for one text alone.
    static func escaped(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { $0 == "\\" || isHidden($0) }) else {
            return text
        }
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\t": result += "\\t"
            case _ where isHidden(scalar):
                result += "\\u{\(String(scalar.value, radix: 16, uppercase: true))}"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    /// A text of our own, of several lines, in which what others chose may stand: as `escaped`, but
    /// lines stay lines and `\` is itself.
    static func escapedLines(_ text: String) -> String {
        text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            var result = ""
            for scalar in line.unicodeScalars {
                if isHidden(scalar) {
                    result += "\\u{\(String(scalar.value, radix: 16, uppercase: true))}"
                } else {
                    result.unicodeScalars.append(scalar)
                }
            }
            return result
        }.joined(separator: "\n")
    }

    /// Whether a terminal obeys the scalar, or shows nothing or a line's end for it: controls (C0,
    /// DEL, C1), formats (bidirectional marks and overrides, zero widths, tags), separators of
    /// lines, what no character is assigned to, and private ones.
    static func isHidden(_ scalar: Unicode.Scalar) -> Bool {
        if scalar.value < 0x7F { return scalar.value < 0x20 }
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .unassigned, .privateUse,
            .surrogate:
            return true
        default: return false
        }
    }

    /// JSON in which also those hidden characters are escaped that JSON lets pass. They can only
    /// stand within its strings, so that it means the same.
    static func escapedJSON(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { $0.value >= 0x7F && isHidden($0) }) else {
            return text
        }
        var result = ""
        for scalar in text.unicodeScalars {
            if scalar.value >= 0x7F, isHidden(scalar) {
                for unit in String(scalar).utf16 { result += String(format: "\\u%04X", unit) }
            } else {
                result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    static let outputIsTerminal = isatty(STDOUT_FILENO) == 1
    static let errorIsTerminal = isatty(STDERR_FILENO) == 1
}

/// `text`, chosen by others, for standard output.
func shown(_ text: String) -> String {
    Escaping.outputIsTerminal ? Escaping.escaped(text) : text
}

/// `text`, chosen by others, for standard error.
func shownInError(_ text: String) -> String {
    Escaping.errorIsTerminal ? Escaping.escaped(text) : text
}

/// Writes a line to standard error, after the program's name; escaped where it is a terminal.
func note(_ text: String, of command: String = "apus") {
    FileHandle.standardError.write(Data("\(command): \(shownInError(text))\n".utf8))
}
