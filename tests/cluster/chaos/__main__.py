"""`python -m tests.cluster.chaos`: the same faults and clients for each balancer, and a table of what they saw."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.cluster.chaos.arena import arena
from tests.cluster.chaos.contenders import contenders
from tests.cluster.chaos.faults import scenarios
from tests.cluster.chaos.outcome import Outcome
from tests.cluster.chaos.table import markdown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__)
    parser.add_argument("--against", default=",".join(contenders()), help="balancers, with commas")
    parser.add_argument("--scenarios", default=",".join(scenarios()), help="faults, with commas")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--directory", type=Path, help="where to keep logs and journals (default: a temporary one)")
    wanted = parser.parse_args()
    directory = wanted.directory or Path(tempfile.mkdtemp(prefix="lbproxy-chaos-"))
    print(f"logs and journals: {directory}", file=sys.stderr)
    results = _run(directory.absolute(), wanted.against.split(","), wanted.scenarios.split(","), wanted.json)
    print(markdown(results))
    return 0


def _run(directory: Path, names: list[str], faults: list[str], file: Path | None) -> dict[str, dict[str, Outcome]]:
    results: dict[str, dict[str, Outcome]] = {fault: {} for fault in faults}
    for name in names:
        with arena(contenders()[name], directory / name) as place:
            for fault in faults:
                began = time.monotonic()
                results[fault][name] = outcome = place.round(scenarios()[fault])
                print(f"{name} {fault}: {time.monotonic() - began:.0f} s, {outcome}", file=sys.stderr)
                if file is not None:
                    file.write_text(json.dumps(_plain(results), indent=1) + "\n")
    return results


def _plain(results: dict[str, dict[str, Outcome]]) -> object:
    return {fault: {name: asdict(one) for name, one in by_name.items()} for fault, by_name in results.items()}


if __name__ == "__main__":
    sys.exit(main())
