"""What becomes of hostile inputs: the counts.

    python tests/benchmarks/hostile.py --out tests/benchmarks/results/hostile.json

Each is made anew, and put to a process apart: see ``tests/hostiles.py``. ``--kind`` takes
the kinds whose names begin so; ``--every 10`` every tenth case.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import hostiles

from pyrovae.runs import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=hostiles.SECONDS, help="of computing")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    hostiles.SECONDS = options.seconds
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = hostiles.warmed(Path(folder))
        cases = [case for case in hostiles.corpus() if case.kind.startswith(options.kind)]
        judge = hostiles.Judge(cases, place)
        verdicts = []
        for number in range(0, len(cases), options.every):
            verdicts.append(judge.verdict(number))
            if verdicts[-1].faults:
                last = verdicts[-1]
                print(f"{last.kind}: {last.name!r}: {last.faults} {last.said!r}"[:400], flush=True)
        judge.end()
    kinds = {v.kind: 0 for v in verdicts}
    for verdict in verdicts:
        kinds[verdict.kind] += 1
    found = {
        "counts": hostiles.summary(verdicts),
        "kinds": kinds,
        "largest_mebibytes": round(max(v.mebibytes for v in verdicts)),
        "longest_seconds": round(max(v.seconds for v in verdicts), 1),
        "limits": {"seconds": hostiles.SECONDS, "mebibytes": hostiles.BYTES // 2**20},
        "faults": [asdict(v) for v in verdicts if v.faults],
        "wall_seconds": round(time.monotonic() - begin),
        "environment": environment(),
    }
    print(json.dumps({k: v for k, v in found.items() if k != "faults"}, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
