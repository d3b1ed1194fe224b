"""`python -m tests.cluster.chaos`: the same faults and clients for each balancer, and a table of what they saw."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tests.cluster.chaos.arena import arena
from tests.cluster.chaos.contenders import contenders
from tests.cluster.chaos.faults import scenarios
from tests.cluster.chaos.outcome import Outcome, restore
from tests.cluster.chaos.table import markdown


def main() -> int:
    usual = [name for name, scenario in scenarios().items() if scenario.usual]
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__)
    parser.add_argument("--against", default=",".join(contenders()), help="balancers, with commas")
    parser.add_argument("--scenarios", default=",".join(usual), help="faults, with commas")
    parser.add_argument("--json", type=Path, help="where to write the results; those of others that are in it stay")
    parser.add_argument("--directory", type=Path, help="where to keep logs and journals (default: a temporary one)")
    wanted = parser.parse_args()
    directory = wanted.directory or Path(tempfile.mkdtemp(prefix="lbproxy-chaos-"))
    print(f"logs and journals: {directory}", file=sys.stderr)
    results = _read(wanted.json)
    for name in wanted.against.split(","):
        program = contenders()[name].command[0]
        if shutil.which(program) is None:
            print(f"{name} is left out: {program} is not installed", file=sys.stderr)
            continue
        for scenario, outcome in _run(directory.absolute() / name, name, wanted.scenarios.split(",")):
            results.setdefault(scenario, {})[name] = outcome
            if wanted.json is not None:
                wanted.json.write_text(json.dumps(_plain(results), indent=1) + "\n")
    print(markdown(results))
    return 0


def _run(directory: Path, name: str, faults: list[str]) -> Iterator[tuple[str, Outcome]]:
    with arena(contenders()[name], directory) as place:
        for fault in faults:
            began = time.monotonic()
            outcome = place.round(scenarios()[fault])
            print(f"{name} {fault}: {time.monotonic() - began:.0f} s, {outcome}", file=sys.stderr)
            yield fault, outcome


def _read(file: Path | None) -> dict[str, dict[str, Outcome]]:
    if file is None or not file.exists():
        return {}
    by_fault = json.loads(file.read_text())
    return {fault: {name: restore(one) for name, one in by_name.items()} for fault, by_name in by_fault.items()}


def _plain(results: dict[str, dict[str, Outcome]]) -> object:
    return {fault: {name: asdict(one) for name, one in by_name.items()} for fault, by_name in results.items()}


if __name__ == "__main__":
    sys.exit(main())
