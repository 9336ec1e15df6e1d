"""Seconds of CPU until the command line has told its help, or what a mistake was.

    python tests/benchmarks/bench_cli.py --out cli.json

Every command is a process of its own, in turns; its seconds are those that the system counts for
it, of the user and of the system together. "torch" is the import of torch, pyro and numpy alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from pyrovae.cli import COMMANDS
from pyrovae.runs import environment

CALLS = {
    "pyrovae --help": ["-m", "pyrovae", "--help"],
    **{f"pyrovae {name} --help": ["-m", "pyrovae", name, "--help"] for name in COMMANDS},
    "pyrovae fit --prior VampPrior --help": ["-m", "pyrovae", "fit", "--prior", "VampPrior", "-h"],
    "pyrovae train": ["-m", "pyrovae", "train"],
    "pyrovae fit --epoch 3": ["-m", "pyrovae", "fit", "--epoch", "3"],
    "torch": ["-c", "import torch, pyro, numpy"],
}


def seconds(call: list[str]) -> float:
    """The CPU time of a process, from its start to its end."""
    before = os.times()
    subprocess.run([sys.executable, *call], capture_output=True, check=False)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in CALLS}
    for _ in range(options.rounds):
        for name, call in CALLS.items():
            found[name].append(round(seconds(call), 3))
    for name, each in found.items():
        print(f"{name:<40} {statistics.median(each):.2f} s ({min(each):.2f} to {max(each):.2f})")
    if options.out:
        whole = {"seconds": found, "environment": environment()}
        options.out.write_text(json.dumps(whole, indent=1))


if __name__ == "__main__":
    main()
