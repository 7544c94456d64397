import Model

/// A moment of the proleptic Gregorian calendar in UTC, to the millisecond.
///
/// The days-to-date arithmetic counts years from March, so that the leap day is the last of its
/// year and a 400-year era has a fixed length.
struct CivilTime: Hashable {
    var year: Int
    var month: Int
    var day: Int
    var hour: Int
    var minute: Int
    var second: Int
    var millisecond: Int

    init(_ time: Timestamp) {
        let milliseconds = Int(time.milliseconds)
        let days = Self.floorDivide(milliseconds, 86_400_000)
        let rest = milliseconds - days * 86_400_000
        let shifted = days + 719_468
        let era = Self.floorDivide(shifted, 146_097)
        let dayOfEra = shifted - era * 146_097
        let yearOfEra =
            (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        day = dayOfYear - (153 * marchMonth + 2) / 5 + 1
        month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        hour = rest / 3_600_000
        minute = rest / 60_000 % 60
        second = rest / 1000 % 60
        millisecond = rest % 1000
    }

    /// `nil` if a field is outside of its range (a leap second is taken).
    init?(_ year: Int, _ month: Int, _ day: Int, _ hour: Int, _ minute: Int, _ second: Int) {
        guard (1...9999).contains(year), (1...12).contains(month), (1...31).contains(day),
            (0...23).contains(hour), (0...59).contains(minute), (0...60).contains(second)
        else { return nil }
        self.year = year
        self.month = month
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
        millisecond = 0
        guard CivilTime(timestamp).day == day || second == 60 else { return nil }
    }

    var timestamp: Timestamp {
        let marchYear = month <= 2 ? year - 1 : year
        let era = Self.floorDivide(marchYear, 400)
        let yearOfEra = marchYear - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return Timestamp(milliseconds: Int64(seconds(days: era * 146_097 + dayOfEra - 719_468)))
    }

    /// 0 is Sunday.
    var weekday: Int {
        let days = Self.floorDivide(Int(timestamp.milliseconds), 86_400_000)
        return ((days + 4) % 7 + 7) % 7
    }

    private func seconds(days: Int) -> Int {
        (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millisecond
    }

    private static func floorDivide(_ a: Int, _ b: Int) -> Int {
        a >= 0 ? a / b : -((-a + b - 1) / b)
    }
}

/// The forms of dates that S3 uses.
enum DateText {
    private static let weekdays = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
    private static let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]

    /// `Fri, 24 May 2013 00:00:00 GMT`, for headers.
    static func http(_ time: Timestamp) -> String {
        let t = CivilTime(time)
        return "\(weekdays[t.weekday]), \(two(t.day)) \(months[t.month - 1]) \(four(t.year)) "
            + "\(two(t.hour)):\(two(t.minute)):\(two(t.second)) GMT"
    }

    /// `2013-05-24T00:00:00.000Z`, for XML. Whole seconds, as in S3: the same moment that headers
    /// tell, since clients compare the two.
    static func iso(_ time: Timestamp) -> String {
        let t = CivilTime(time)
        return "\(four(t.year))-\(two(t.month))-\(two(t.day))T"
            + "\(two(t.hour)):\(two(t.minute)):\(two(t.second)).000Z"
    }

    /// `20130524T000000Z`, as SigV4 writes it.
    static func basic(_ time: Timestamp) -> String {
        let t = CivilTime(time)
        return "\(four(t.year))\(two(t.month))\(two(t.day))T"
            + "\(two(t.hour))\(two(t.minute))\(two(t.second))Z"
    }

    /// Parses `20130524T000000Z`.
    static func parseBasic(_ text: some StringProtocol) -> Timestamp? {
        let c = Array(text.utf8)
        guard c.count == 16, c[8] == UInt8(ascii: "T"), c[15] == UInt8(ascii: "Z") else {
            return nil
        }
        guard let year = number(c[0..<4]), let month = number(c[4..<6]),
            let day = number(c[6..<8]), let hour = number(c[9..<11]),
            let minute = number(c[11..<13]), let second = number(c[13..<15])
        else { return nil }
        return CivilTime(year, month, day, hour, minute, second)?.timestamp
    }

    /// Parses the three forms of HTTP (RFC 9110, 5.6.7) and `2013-05-24T00:00:00Z`, which some
    /// SDKs send in its place.
    static func parseHTTP(_ text: some StringProtocol) -> Timestamp? {
        let words = String(text).split { " ,-".contains($0) }.map(String.init)
        if let first = words.first, first.first?.isNumber == true {
            return parseISO(text)
        }
        // Fri, 24 May 2013 00:00:00 GMT | Friday, 24-May-13 00:00:00 GMT
        if words.count == 6, let day = Int(words[1]), let month = month(words[2]),
            let year = Int(words[3])
        {
            let full = words[3].utf8.count == 2 ? (year < 70 ? 2000 + year : 1900 + year) : year
            return withClock(words[4], full, month, day)
        }
        // Fri May 24 00:00:00 2013
        if words.count == 5, let month = month(words[1]), let day = Int(words[2]),
            let year = Int(words[4])
        {
            return withClock(words[3], year, month, day)
        }
        return nil
    }

    private static func parseISO(_ text: some StringProtocol) -> Timestamp? {
        let c = Array(text.utf8)
        guard c.count >= 20, c[4] == UInt8(ascii: "-"), c[7] == UInt8(ascii: "-"),
            c[10] == UInt8(ascii: "T"), c.last == UInt8(ascii: "Z"),
            let year = number(c[0..<4]), let month = number(c[5..<7]),
            let day = number(c[8..<10]), let hour = number(c[11..<13]),
            let minute = number(c[14..<16]), let second = number(c[17..<19])
        else { return nil }
        return CivilTime(year, month, day, hour, minute, second)?.timestamp
    }

    private static func withClock(
        _ clock: String, _ year: Int, _ month: Int, _ day: Int
    ) -> Timestamp? {
        let parts = clock.split(separator: ":").compactMap { Int($0) }
        guard parts.count == 3 else { return nil }
        return CivilTime(year, month, day, parts[0], parts[1], parts[2])?.timestamp
    }

    private static func month(_ name: String) -> Int? {
        months.firstIndex { $0 == name.prefix(3) }.map { $0 + 1 }
    }

    private static func number(_ digits: ArraySlice<UInt8>) -> Int? {
        var value = 0
        for digit in digits {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { return nil }
            value = value * 10 + Int(digit - UInt8(ascii: "0"))
        }
        return value
    }

    private static func two(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
    private static func four(_ value: Int) -> String {
        String(repeating: "0", count: max(0, 4 - String(value).count)) + String(value)
    }
}
