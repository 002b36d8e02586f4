"""False alarms and power of the inferred throttling, on simulated runs: `python -m benchmarks.throttling`.

Printed is the share of runs that were ever taken as throttled; `tests/routing/stats/simulated_heat.py` has the runs.
"""

from __future__ import annotations

import argparse

import numpy as np

from tests.routing.stats.simulated_heat import BEGIN, HARMLESS, THROTTLED, alarm


def main() -> None:
    """Print a table of all disturbances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    print("| disturbance | taken as throttled | median delay |\n|---|---|---|")
    for name, disturbance in (HARMLESS | THROTTLED).items():
        times = [alarm(disturbance, seed) for seed in range(runs)]
        found = [time - BEGIN for time in times if time is not None]
        delay = f"{np.median(found):.0f} s" if found else "–"
        print(f"| {name} | {len(found)} of {runs} | {delay} |", flush=True)


if __name__ == "__main__":
    main()
