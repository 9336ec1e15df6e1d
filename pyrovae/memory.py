"""How much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def fits(nbytes: int, device: torch.device | str) -> bool:
    """Whether `nbytes` fit in half of the free memory of `device`.

    >>> fits(1, "cpu"), fits(2**60, "cpu")
    (True, False)
    """
    if torch.device(device).type == "cuda":
        return nbytes <= torch.cuda.mem_get_info(device)[0] / 2
    try:  # free pages alone would leave out the cache that the kernel gives back
        with Path("/proc/meminfo").open() as file:
            free = next(int(line.split()[1]) * 1024 for line in file if "MemAvailable" in line)
    except (OSError, StopIteration):
        sysconf = getattr(os, "sysconf", None)
        free = sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES") if sysconf else 2**32
    return nbytes <= free / 2
