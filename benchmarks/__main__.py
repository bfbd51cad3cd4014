"""`python -m benchmarks [--quick] [--publish] [rows…]`: measures and prints a table; ends with 0 in any case."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.measuring import Measured, measure
from benchmarks.rows import all_rows
from benchmarks.shape import Row


def main() -> None:
    """Measures the rows that were named, or all."""
    options = _options()
    whole = not options.rows and not options.quick
    folder = report.PUBLISHED if whole or options.publish else report.PRIVATE
    published = report.read(folder, all_rows()) if folder == report.PUBLISHED else []
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="trx-bench-", dir="/var/tmp") as scratch:
        bench = Bench(options.quick, Path(scratch))
        for row in _chosen(options.rows):
            measured.append(_measure(row, bench))
            _set_machine(measured)
            report.write(_together(published, measured), folder)  # each time: one that is stopped was not in vain
    print(f"\n{report.table(measured)}\n\nwritten to {folder}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", help="names of rows; default: all")
    parser.add_argument("--quick", action="store_true", help="only a look: few rounds")
    parser.add_argument("--publish", action="store_true", help="write to docs/ even though not all was measured")
    options = parser.parse_args()
    known = [row.name for row in all_rows()]
    if unknown := [name for name in options.rows if name not in known]:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(known)}")
    return options


def _chosen(names: list[str]) -> list[Row]:
    return [row for row in all_rows() if not names or row.name in names]


def _measure(row: Row, bench: Bench) -> Measured:
    print(f"{row.name}: {row.title}", flush=True)
    return measure(row, bench)


def _set_machine(measured: Sequence[Measured]) -> None:
    """Anew after each row, which may have installed a peer: all rows of a run say the same."""
    facts = report.machine()
    for each in measured:
        each.machine = facts


def _together(published: Sequence[Measured], measured: Sequence[Measured]) -> list[Measured]:
    """What was measured now, and of all other rows what was published, in the order of the table."""
    newest = {each.row.name: each for each in (*published, *measured)}
    return [newest[row.name] for row in all_rows() if row.name in newest]


if __name__ == "__main__":
    main()
