"""The pictures in docs/, and what `lbproxy status` says meanwhile: `python -m tests.e2e.screenshots DIR [SECONDS]`.

Two minutes in the life of a balancer: three simulated masters behind it, kubectls that list and watch, agents that stay
connected. One master loses etcd for a while, another one is killed just before the pictures are taken. It wants
Debian's chromium and pngquant, and fonts-inter, so that the page looks as it does on most desks.
"""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import h11
import trio

from lbproxy.demo import life
from lbproxy.demo.api import commit_to
from lbproxy.demo.process import Child
from lbproxy.demo.replica import serve_store
from lbproxy.demo.store import Store
from tests.demo.client import ask, connected
from tests.e2e.browser import Page, chromium
from tests.programs import require

MASTERS = ("127.0.1.11", "127.0.1.12", "127.0.1.13")
PORT = 6443
KUBERNETES = ("127.0.1.10", PORT)
AGENTS = ("127.0.1.10", 8132)
ADMIN = "127.0.0.1:9180"
SECONDS = 150.0
SCALE = 2  # pixels of a picture for one of the page: it is looked at on screens that have as many
LATELY = 12.0
"""Seconds between the death of a master and the pictures."""
BUTTON = "document.querySelector('.toggle button')"  # in the dark picture its row is open

CONFIG = f"""
listeners:
  - {{name: kubernetes, bind: "{KUBERNETES[0]}:{KUBERNETES[1]}", mode: http, pool: apiservers}}
  - {{name: agents, bind: "{AGENTS[0]}:{AGENTS[1]}", mode: tcp, pool: konnectivity}}
pools:
  apiservers:
    backends: [{", ".join(f"{master}:{PORT}" for master in MASTERS)}]
    health_check: {{type: http, path: /readyz, interval: 2s, fast_interval: 500ms}}
  konnectivity:
    backends: [{", ".join(f"{master}:{PORT}" for master in MASTERS)}]
    health_check: {{type: http, path: /readyz, interval: 2s, fast_interval: 500ms}}
    balance: least_conn
log: {{access: off}}
"""
SEEN = {  # width, height, dark
    "dashboard-light.png": (1280, 712, False),
    "dashboard-dark.png": (1280, 712, True),
    "dashboard-phone.png": (390, 844, False),
}
WATCHED = ("pods", "nodes", "configmaps", "services", "namespaces")


async def scene(directory: Path, seconds: float) -> None:
    """Run it all, and take the pictures into a directory."""
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbproxy-screenshots-")))
        nursery = await stack.enter_async_context(trio.open_nursery())
        store = Store()
        life.furnish(store)
        await nursery.start(serve_store, store, str(work / "store.sock"))
        masters = [await stack.enter_async_context(apiserver(host, work / "store.sock")) for host in MASTERS]
        await stack.enter_async_context(balancer(work))
        nursery.start_soon(life.live, store, commit_to(store))
        for number in range(48):
            nursery.start_soon(watch, number)
        for number in range(9):
            nursery.start_soon(lists, number)
        for _ in range(14):
            nursery.start_soon(agent)
        for node in life.NODES:
            nursery.start_soon(kubelet, node)

        await trio.sleep(seconds - 3 * LATELY)
        await fail(MASTERS[2])
        await trio.sleep(LATELY)
        await fail(MASTERS[2], "&off=1")
        await trio.sleep(LATELY)
        masters[1].process.kill()
        await trio.to_thread.run_sync(pictures, directory, work)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def apiserver(host: str, store: Path) -> AsyncIterator[Child]:
    command = [sys.executable, "-m", "lbproxy.demo.apiserver", "--bind", f"{host}:{PORT}", "--store", str(store)]
    child = Child(command, stop_signal=signal.SIGKILL, stdout=subprocess.PIPE)
    try:
        assert await child.next_line() is not None, f"no apiserver on {host}"
        yield child
    finally:
        await child.stop()


@asynccontextmanager
async def balancer(work: Path) -> AsyncIterator[None]:
    (work / "lb.yaml").write_text(f"{CONFIG}admin: {{bind: '{ADMIN}', socket: '{work}/lb.sock'}}\n")
    command = ["env", "--chdir", str(work), sys.executable, "-m", "lbproxy", "-c", "lb.yaml"]  # the path is shown
    child = Child(command, stop_signal=signal.SIGINT, stdout=subprocess.PIPE)
    try:
        while (line := await child.next_line()) is not None and '"ready"' not in line:
            pass
        assert line is not None, "lbproxy did not start"
        yield
    finally:
        await child.stop()


async def fail(host: str, off: str = "") -> None:
    await ask((host, PORT), "POST", f"/demo/fail?check=etcd{off}")


async def watch(number: int) -> None:
    """An informer: it begins anew when its watch ends."""
    await trio.sleep(number / 5)
    while True:
        with suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError, AssertionError):
            async with connected(KUBERNETES) as client:
                await client.open_watch(f"/api/v1/{WATCHED[number % len(WATCHED)]}?watch=1&allowWatchBookmarks=true")
                while await client.event() is not None:
                    pass
        await trio.sleep(0.2)


async def lists(number: int) -> None:
    """Somebody who asks now more, now less often."""
    chance = random.Random(number)
    path = f"/api/v1/namespaces/kube-system/{('configmaps', 'pods', 'services')[number % 3]}"
    while True:
        with suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
            async with connected(KUBERNETES) as client:
                for _ in range(40):
                    await client.ask("GET", path)
                    often = 6 + 3 * math.sin(trio.current_time() / 9 + number / 4)
                    await trio.sleep(chance.expovariate(often))


async def kubelet(node: str) -> None:
    """What keeps a node ready."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
    await trio.sleep(random.uniform(0, 10))
    while True:
        with suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
            async with connected(KUBERNETES) as client:
                lease = (await client.ask("GET", path)).json
                lease["spec"]["renewTime"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
                await client.ask("PUT", path, lease, {"Content-Type": "application/json"})
        await trio.sleep(10)


async def agent() -> None:
    """A connection that stays for a while, though little is said."""
    while True:
        with (
            trio.move_on_after(random.uniform(10, 60)),
            suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError, AssertionError),
        ):
            async with connected(AGENTS) as client:
                await client.open_watch("/api/v1/configmaps?watch=1")
                while await client.event() is not None:
                    pass
        await trio.sleep(random.uniform(0.2, 1))


def pictures(directory: Path, work: Path) -> None:
    with chromium(work) as page:
        page.look(1280, 800)
        page.open(f"http://{ADMIN}/")
        page.wait_text("down", ".pool")
        page.idle(LATELY)
        for name, (width, height, dark) in SEEN.items():
            page.js(f"{BUTTON}.ariaExpanded === '{str(dark).lower()}' || {BUTTON}.click()")
            page.look(width, height, dark=dark, scale=SCALE)
            page.idle(1.2)  # an answer more, in the new size
            save(page, directory / name)
    lbproxy = [sys.executable, "-m", "lbproxy"]
    socket = ["--socket", str(work / "lb.sock")]
    subprocess.run([*lbproxy, "top", *socket, "--svg", str(directory / "top.svg"), "--interval", "3"], check=True)
    subprocess.run([*lbproxy, "status", *socket], check=True)


def save(page: Page, path: Path) -> None:
    page.screenshot(path)
    squeeze = [require("pngquant"), "--force", "--strip", "--output", str(path), "--", str(path)]
    subprocess.run(squeeze, check=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB", flush=True)


def main() -> None:
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    with suppress(KeyboardInterrupt):
        trio.run(scene, Path(sys.argv[1]), seconds)


if __name__ == "__main__":
    main()
