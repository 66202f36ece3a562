"""Run a benchmark and print its rows: name, our seconds, the other's seconds, their ratio, and the goal.

Ratios count, because absolute times belong to one machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benches.counts import bench_counts
from benches.explain import bench_bf16, bench_explain, bench_explain_memory, bench_resnet18
from benches.ingest import bench_ingest
from benches.long import bench_long
from benches.malloc import bench_malloc
from benches.read import bench_read
from benches.report import bench_report
from benches.score import bench_score
from benches.slides import bench_slides
from benches.train import bench_train
from benches.workers import bench_memory, bench_workers

BENCHES = {
    "counts": bench_counts,
    "ingest": bench_ingest,
    "long": bench_long,
    "malloc": bench_malloc,
    "read": bench_read,
    "report": bench_report,
    "score": bench_score,
    "explain": bench_explain,
    "explain-resnet18": bench_resnet18,
    "explain-bf16": bench_bf16,
    "explain-memory": bench_explain_memory,
    "slides": bench_slides,
    "train": bench_train,
    "workers": bench_workers,
    "memory": bench_memory,
}


def main() -> None:
    """Run one benchmark in a temporary folder and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHES))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = BENCHES[chosen.name](Path(folder))
    if chosen.json:
        print(json.dumps(rows))
        return
    print(f"{'name':36} {'ours_s':>9} {'other_s':>9} {'ratio':>7}  goal")
    for r in rows:
        print(f"{r['name']:36} {r['ours_s']:9.2f} {r['other_s']:9.2f} {r['ratio']:7.2f}  {r['goal']}")


if __name__ == "__main__":
    main()
