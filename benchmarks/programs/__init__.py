"""What runs in the measured processes, of trx and of its peers: `python -m benchmarks.programs.<name> '<settings>'`.

These modules import nothing of `benchmarks` but each other, since they run in the peers' environments.
"""
