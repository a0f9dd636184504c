"""What things cost, measured: `make bench` prints a table and writes `build/bench.json`.

Figures of one run are compared with each other only: a shared machine has no absolute times.
"""
