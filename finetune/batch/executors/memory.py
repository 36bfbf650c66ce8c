"""What the kernel says about processes it killed for want of memory."""

import re
from pathlib import Path


def oom_kill_count() -> int | None:
    """Processes the kernel has killed for want of memory so far: of this process's memory group where there is one
    (cgroup 2, then 1), else of the machine; None where it does not say."""
    for path in (*_group_counters(), Path("/proc/vmstat")):
        try:
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return None


def _group_counters() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        inside = group.lstrip("/")
        if not controllers:
            found.append(Path("/sys/fs/cgroup") / inside / "memory.events")
        elif "memory" in controllers.split(","):
            found.append(Path("/sys/fs/cgroup/memory") / inside / "memory.oom_control")
    return found
