import Model

extension ObjectChecksum.Algorithm {
    /// `x-amz-checksum-crc32` and so on.
    var headerName: String { "x-amz-checksum-\(rawValue.lowercased())" }

    /// The element of this checksum in XML.
    var elementName: StaticString {
        switch self {
        case .crc32: "ChecksumCRC32"
        case .crc32c: "ChecksumCRC32C"
        case .crc64nvme: "ChecksumCRC64NVME"
        case .sha1: "ChecksumSHA1"
        case .sha256: "ChecksumSHA256"
        }
    }

    /// Bytes of a checksum.
    var byteCount: Int {
        switch self {
        case .crc32, .crc32c: 4
        case .crc64nvme: 8
        case .sha1: 20
        case .sha256: 32
        }
    }

    /// Whether the checksum of a whole can be had from those of its parts and their lengths.
    var canBeCombined: Bool {
        switch self {
        case .crc32, .crc32c, .crc64nvme: true
        case .sha1, .sha256: false
        }
    }

    init(headerName: String, in header: String) throws(S3Error) {
        guard let found = Self.allCases.first(where: { $0.headerName == headerName.lowercased() })
        else {
            throw S3Error(
                .invalidRequest, "The value specified in the \(header) header is not supported.")
        }
        self = found
    }

    /// From the value of `x-amz-checksum-algorithm` or `x-amz-sdk-checksum-algorithm`.
    init(name: String, in header: String) throws(S3Error) {
        guard let found = Self(rawValue: name.uppercased()) else {
            throw S3Error(
                .invalidRequest,
                "\(header) must be CRC32, CRC32C, CRC64NVME, SHA1 or SHA256, not \(name).")
        }
        self = found
    }
}

/// A checksum that a client gave or promised for a body.
struct DeclaredChecksum: Equatable {
    var algorithm: ObjectChecksum.Algorithm
    /// Base64 from the header; nil if it comes in the trailer.
    var value: String?
}

extension S3Request {
    /// The checksum in `x-amz-checksum-…` or announced by `x-amz-trailer`; nil if there is none.
    ///
    /// Also checks `x-amz-sdk-checksum-algorithm`, which must name the same one.
    func declaredChecksum() throws(S3Error) -> DeclaredChecksum? {
        var found = try checksumHeader()
        if let trailer = header("x-amz-trailer") {
            let names = trailer.split(separator: ",").map { trimmingSpaces($0) }
            guard names.count == 1 else {
                throw S3Error(
                    .invalidRequest, "x-amz-trailer must name one x-amz-checksum- trailer.")
            }
            guard found == nil else {
                throw S3Error(
                    .invalidRequest, "Expecting a single x-amz-checksum- header or trailer.")
            }
            let algorithm = try ObjectChecksum.Algorithm(
                headerName: names[0], in: "x-amz-trailer")
            found = DeclaredChecksum(algorithm: algorithm, value: nil)
        }
        if let name = header("x-amz-sdk-checksum-algorithm") {
            let algorithm = try ObjectChecksum.Algorithm(
                name: name, in: "x-amz-sdk-checksum-algorithm")
            guard let found else {
                throw S3Error(
                    .invalidRequest,
                    "x-amz-sdk-checksum-algorithm specified, but no corresponding "
                        + "x-amz-checksum-* or x-amz-trailer headers were found.")
            }
            guard found.algorithm == algorithm else {
                throw S3Error(
                    .invalidRequest,
                    "x-amz-sdk-checksum-algorithm names \(algorithm.rawValue), the checksum "
                        + "is a \(found.algorithm.rawValue).")
            }
        }
        return found
    }

    /// The value of an `x-amz-checksum-…` header, checked for its form.
    func checksumHeader() throws(S3Error) -> DeclaredChecksum? {
        var found: DeclaredChecksum?
        for algorithm in ObjectChecksum.Algorithm.allCases {
            guard let value = header(algorithm.headerName) else { continue }
            guard found == nil else {
                throw S3Error(
                    .invalidRequest,
                    "Expecting a single x-amz-checksum- header. Multiple checksum Types are not "
                        + "allowed.")
            }
            found = DeclaredChecksum(algorithm: algorithm, value: value)
        }
        return found
    }
}

/// The bytes of a base64 checksum; `invalidRequest` if it is not one of `algorithm`.
func decodeChecksum(
    _ value: String, _ algorithm: ObjectChecksum.Algorithm
) throws(S3Error) -> [UInt8] {
    guard let bytes = Base64.decode(value), bytes.count == algorithm.byteCount else {
        throw S3Error(
            .invalidRequest, "Value for \(algorithm.headerName) header is invalid.")
    }
    return bytes
}
