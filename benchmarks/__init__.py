"""Measures trx beside what its users would pick instead: `make bench`.

Files, in the order in which they build on each other: `shape` (what a row is), `session` (a program that is measured),
`peers` (environments of others), `bench` (what rows may use), `rows/` (one file a row), `measuring` (all rows, in
turns), `report` and `picture` (JSON, table, picture), `__main__`. `programs/` holds what runs in the measured
processes: it imports nothing of the rest, since it runs in the peers' environments.

No harness of others is used: pyperf and pytest-benchmark time a callable within interpreters of one environment, one
contestant after the other. Here a sample is a whole script, or a word to a process that runs in another environment or
on another host, and the contestants take turns, so that what else the machine does hits all of them alike.
"""
