import FoundationEssentials
import Glibc
import Telemetry

/// What the kernel says of this process, under the names that Prometheus's own clients use.
///
/// Roles in one process all tell the same of it.
public enum ProcessMetrics {
    /// Adds them to the pages of `metrics`, with the version of the program.
    public static func add(to metrics: MetricsRegistry, version: String) {
        let startedAt = Date().timeIntervalSince1970 - secondsSinceStart()
        metrics.collect { page in
            page.gauge(
                "apus_build_info", "1; the label tells the version of the program.",
                ["version": version], 1)
            page.gauge(
                "process_start_time_seconds", "Unix time of the process's start.",
                startedAt)
            page.gauge(
                "apus_uptime_seconds", "Since the process's start.",
                Date().timeIntervalSince1970 - startedAt)
            addUsage(to: &page)
        }
    }

    private static func addUsage(to page: inout MetricsPage) {
        var usage = rusage()
        getrusage(RUSAGE_SELF.rawValue, &usage)
        func seconds(_ time: timeval) -> Double {
            Double(time.tv_sec) + Double(time.tv_usec) / 1e6
        }
        page.counter(
            "process_cpu_seconds_total", "CPU time, user and system.",
            seconds(usage.ru_utime) + seconds(usage.ru_stime))
        let pages = words("/proc/self/statm").compactMap { Double($0) }
        if pages.count > 1 {
            let size = Double(sysconf(Int32(_SC_PAGESIZE)))
            page.gauge(
                "process_virtual_memory_bytes", "Address space.", pages[0] * size)
            page.gauge("process_resident_memory_bytes", "Memory in use.", pages[1] * size)
        }
        let descriptors = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd"))
        page.gauge(
            "process_open_fds", "File descriptors in use.", Double(descriptors?.count ?? 0))
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        page.gauge(
            "process_max_fds", "File descriptors that may be used.", Double(limit.rlim_cur))
    }

    private static func words(_ path: String) -> [String] {
        guard let data = FileManager.default.contents(atPath: path) else { return [] }
        return String(decoding: data, as: UTF8.self).split(whereSeparator: \.isWhitespace)
            .map(String.init)
    }

    /// Seconds since the process began: field 22 of /proc/self/stat counts clock ticks since boot.
    private static func secondsSinceStart() -> Double {
        guard let data = FileManager.default.contents(atPath: "/proc/self/stat") else { return 0 }
        let text = String(decoding: data, as: UTF8.self)
        // The program's name, in parentheses, may hold anything.
        guard let end = text.lastIndex(of: ")") else { return 0 }
        let fields = text[text.index(after: end)...].split(separator: " ")
        guard fields.count > 19, let ticks = Double(fields[19]),
            let uptime = words("/proc/uptime").first.flatMap(Double.init)
        else { return 0 }
        return max(0, uptime - ticks / Double(sysconf(Int32(_SC_CLK_TCK))))
    }
}
