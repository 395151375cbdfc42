"""Faults of op builds: of the compiler, the cache, and builders that die or meet."""

import contextlib
import json
import os
import signal
import time

from campaign_struck import PATIENCE, Fault, Scene, mounted
from marked import wait_for
from op_workshop import OP, Workshop

_GREEN = 0


def _scene(says="", compile_step='touch "$last"', before=None, shared=False, **environment):
    """A session whose ops are built in a cache of its own.

    Args:
        says: what both tests that load the op must say; nothing where they pass.
        compile_step: what the compiler does.
        before: called with the `Workshop` and where moments are drawn from.
        shared: whether the cache is that of the session beside it too.
    """

    def shop(folder):
        return folder.parent / "shop" if shared else folder / "shop"

    def set_up(folder, choice):
        shop(folder).mkdir(exist_ok=shared)
        made = Workshop(shop(folder), compile_step)
        if before is not None:
            before(made, choice)
        return {name: made.env[name] for name in ("PYTEST_DS_OPS_CACHE", "CXX")} | environment

    def left(folder):
        made = shop(folder)
        found = [f"torch's lock {path}" for path in made.glob(f"cache/*/{OP}/lock")]
        links = made.joinpath("calls").read_text().count("link")
        return found + ([f"{links} links of the library, not 1"] if shared and links != 1 else [])

    expected = {"test_loads": says, "test_loads_again": says, "test_after": ""}
    return Scene("campaign_loading.py", expected, set_up, left)


def _stale(shop, choice):
    """What a build that was killed leaves: torch's lock, half a library, a stamp of another."""
    folder = shop.cache / OP
    folder.mkdir(parents=True)
    folder.joinpath("lock").touch()
    folder.joinpath(f"{OP}.so").write_bytes(b"\x7fELF")
    shop.cache.joinpath(f"{OP}.json").write_text('{"size": 9, "mtime_ns": 9, "sha256": "9"}')


def _truncated(shop, choice):
    """A library that was built, and has lost its end since."""
    folder = shop.cache / OP
    folder.mkdir(parents=True)
    library = folder / f"{OP}.so"
    library.write_bytes(b"\x7fELF" + bytes(10_000))
    of = library.stat()
    stamp = {"size": of.st_size, "mtime_ns": of.st_mtime_ns, "sha256": "0" * 64}
    shop.cache.joinpath(f"{OP}.json").write_text(json.dumps(stamp))
    os.truncate(library, choice.randrange(of.st_size))


def _kill_builder(process, mark, folder, choice):
    calls = folder / "shop" / "calls"
    wait_for(lambda: "compile" in calls.read_text() or process.poll() is not None, PATIENCE)
    time.sleep(choice.uniform(0, 2))
    (owner,) = folder.glob(f"shop/cache/*/{OP}.owner")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(owner.read_text().split()[0]), signal.SIGKILL)


FAULTS = (
    Fault(
        "op_stale",
        "op: lock and half a library left",
        statuses=(_GREEN,),
        scene=_scene(before=_stale),
    ),
    Fault(
        "op_truncated", "op: library cut off", statuses=(_GREEN,), scene=_scene(before=_truncated)
    ),
    Fault(
        "op_build_killed",
        "op: build killed half-way",
        _kill_builder,
        scene=_scene(
            rf"the build of {OP} exited with -9|the build of {OP} was killed by SIGKILL",
            compile_step='sleep 4; touch "$last"',
        ),
    ),
    Fault(
        "op_two_builders",
        "op: two sessions build at once",
        statuses=(_GREEN,),
        scene=_scene(compile_step='sleep 2; touch "$last"', shared=True),
        copies=2,
    ),
    Fault(
        "op_broken_compiler",
        "op: compiler fails",
        scene=_scene(
            rf"DeepSpeed op {OP} did not compile:\n.*a\.cpp:1:2: error: no such thing",
            compile_step="echo 'a.cpp:1:2: error: no such thing'; exit 1",
        ),
    ),
    Fault(
        "op_no_compiler",
        "op: no compiler",
        scene=_scene(
            r"no C\+\+ compiler, no-such-compiler is not on PATH; type: apt-get install g\+\+",
            CXX="no-such-compiler",
        ),
    ),
    Fault(
        "op_cache_read_only",
        "op: cache read-only",
        inside=mounted("mkdir shop/cache", "mount -t tmpfs -o ro none shop/cache"),
        scene=_scene(r"cannot write to the cache of compiled DeepSpeed ops, .* \(Read-only file"),
    ),
    Fault(
        "op_cache_full",
        "op: cache full",
        inside=mounted("mkdir shop/cache", "mount -t tmpfs -o size=4k none shop/cache"),
        scene=_scene(r"No space left on device"),
    ),
)
