"""What this process may use of the machine."""

import os


def usable_cores() -> int:
    """Cores on which this process may run: all, or those that a container or `taskset` leaves it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
