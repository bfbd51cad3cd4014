"""Seeded random launches in the lab, with faults: `make soak SEEDS=1-300`.

Files, in the order in which they build on each other: `plan` (what a seed means), `oracle` (which results of it are
legal), both pure; `program` (what runs at the launcher), `processes`, `faults`, `scene` (one plan is played),
`__main__` (many are).
"""
