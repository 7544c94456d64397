import CGalois

/// What does the arithmetic of GF(2^8): ISA-L, or this package's kernels on processors whose GFNI
/// instructions multiply by a bit matrix, which ISA-L uses only from 2.31 on.
///
/// All give the same bytes. A kernel is chosen once per `Codec`.
public enum GaloisKernel: Int, Sendable, Comparable, CaseIterable {
    /// ISA-L's `ec_encode_data`, on any processor.
    case isal
    /// GFNI on vectors of 32 bytes, with AVX2.
    case affine32
    /// GFNI on vectors of 64 bytes, with AVX-512.
    case affine64

    /// The best that this processor has.
    public static let best: GaloisKernel =
        switch Int(apus_galois_level()) {
        case APUS_GALOIS_AVX512: .affine64
        case APUS_GALOIS_AVX2: .affine32
        default: .isal
        }

    /// Those that this processor has, from worst to best.
    public static var available: [GaloisKernel] { allCases.filter { $0 <= best } }

    public static func < (a: GaloisKernel, b: GaloisKernel) -> Bool { a.rawValue < b.rawValue }

    /// The kernel's name among CGalois' levels.
    var level: Int32 { Int32(rawValue) }
}
