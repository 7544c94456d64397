import Model

/// The versions of what the Ozone Manager keeps, all of them. docs/internals/metadata.md says what
/// each number stands for.
public enum OMFormat {
    /// Of the records in its tables.
    ///
    /// 1: the first. 2: keys have generations, references to blocks may be of a part of them;
    /// history, settings, usage and entries have tables. Records of version 1 are read as what
    /// they mean in version 2, and are rewritten when they are changed.
    public static let tables = TablesFormat(current: 2, oldest: 1)

    /// The rules that a command made now is applied by (`OMCommand.version`).
    ///
    /// A command is applied by the rules that it names, whichever version of the program applies
    /// it: what was logged before an upgrade gives what it gave before. 0: the first, which bear no
    /// number. 1: keys get generations, new buckets are counted. 2: `OMCommand.logTime` decides
    /// what is old, and is kept.
    public static let command: UInt32 = 2
}
