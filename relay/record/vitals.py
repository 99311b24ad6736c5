"""What the operating system says of this process, by Prometheus' usual names. Reads ``/proc``; without one, less."""

from __future__ import annotations

import contextlib
import os
import time

# name: (type, help, how the values of several workers become one)
VITALS = {
    "process_cpu_seconds_total": ("counter", "User and system CPU time spent, in seconds.", "sum"),
    "process_resident_memory_bytes": ("gauge", "Resident memory; pages that workers share count for each.", "sum"),
    "process_virtual_memory_bytes": ("gauge", "Virtual memory.", "sum"),
    "process_open_fds": ("gauge", "Open file descriptors.", "sum"),
    "process_max_fds": ("gauge", "Most file descriptors that may be open.", "sum"),
    "process_start_time_seconds": ("gauge", "Start of the process, in seconds since the epoch.", "min"),
}


def read_vitals() -> dict[str, float]:
    """The figures of this process, now; those that this system does not tell are left out."""
    vitals: dict[str, float] = {"process_cpu_seconds_total": time.process_time()}
    with contextlib.suppress(OSError, ValueError, IndexError):
        vitals |= _memory()
    with contextlib.suppress(OSError):
        vitals["process_open_fds"] = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - one is the listing's own
    with contextlib.suppress(OSError, ImportError):
        import resource  # lazy: only Unix has it, and only a scrape needs it

        vitals["process_max_fds"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with contextlib.suppress(OSError, ValueError, IndexError):
        vitals["process_start_time_seconds"] = _start_time()
    return vitals


def usable_cores() -> int:
    """How many cores this process may keep busy: those it may run on, or less where its control group has a quota."""
    may = getattr(os, "sched_getaffinity", None)
    cores = len(may(0)) if may else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError, StopIteration):
        groups = _read("/proc/self/cgroup").splitlines()
        name = next(line.removeprefix("0::").strip("/") for line in groups if line.startswith("0::"))
        quota, period = _read(f"/sys/fs/cgroup/{name}/cpu.max").split()
        cores = min(cores, max(round(int(quota) / int(period)), 1))  # "max" is no number: no quota
    return cores


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - pathlib is not loaded otherwise
        return file.read()


def _memory() -> dict[str, float]:
    """From proc(5), statm: total size and resident set, in pages."""
    pages = _read("/proc/self/statm").split()
    size = os.sysconf("SC_PAGE_SIZE")
    return {
        "process_virtual_memory_bytes": int(pages[0]) * size,
        "process_resident_memory_bytes": int(pages[1]) * size,
    }


def _start_time() -> float:
    """From proc(5), stat: field 22 is ticks after boot; the name in field 2 may hold blanks and brackets."""
    ticks = int(_read("/proc/self/stat").rpartition(")")[2].split()[19])
    boot = next(int(line.split()[1]) for line in _read("/proc/stat").splitlines() if line.startswith("btime "))
    return boot + ticks / os.sysconf("SC_CLK_TCK")
