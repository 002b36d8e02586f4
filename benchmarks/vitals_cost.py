"""Cost of reading the machine's vitals, per provider and in total, as a share of one core.

    python -m benchmarks.vitals_cost

The worker is a process of its own, as in a run. Processor time of this process is measured, so that other programs on
the machine do not count.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from moe_watch.routing.events import to_json
from moe_watch.sessions.live.vitals_timer import VITALS_SECONDS
from moe_watch.vitals.provider import Provider, UnavailableError
from moe_watch.vitals.sampler import VitalsSampler, system_providers

READINGS = 400
GOAL = 0.005
"""Share of one core."""


def main() -> None:
    """Print the table of docs/vitals.md."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as worker:
        providers = system_providers(lambda: worker.pid)
        sampler = VitalsSampler(lambda: 1.0, lambda: worker.pid, providers)
        sampler.read()
        rows = [(f"`{', '.join(each.fields)}`", _cost(partial(_read, each))) for each in providers]
        reading = _cost(sampler.read)
        vitals = sampler.read()
        written = _cost(lambda: to_json(vitals))
    total = reading + written
    share = total / VITALS_SECONDS
    print("| reading of | µs | share of a core at 2 Hz |\n|---|---|---|")
    for name, seconds in [*rows, ("one event with all of them", reading), ("its line in the file", written)]:
        print(f"| {name} | {seconds * 1e6:.0f} | {seconds / VITALS_SECONDS:.4%} |")
    print(f"| **total** | {total * 1e6:.0f} | {share:.3%}, goal: below {GOAL:.1%} |")
    print(f"\nA line has {len(to_json(vitals))} bytes.")
    if share >= GOAL:
        sys.exit("the goal is missed")


def _read(provider: Provider) -> None:
    try:
        provider.read()
    except UnavailableError:
        return


def _cost(work: Callable[[], object]) -> float:
    """Return the processor time of one call in seconds: the median of five rounds."""
    rounds = []
    for _ in range(5):
        begun = time.process_time()
        for _ in range(READINGS // 5):
            work()
        rounds.append((time.process_time() - begun) / (READINGS // 5))
    return sorted(rounds)[2]


if __name__ == "__main__":
    main()
