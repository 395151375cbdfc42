"""Op builds: each once, nothing stale left, and messages that say what to type.

Most builds here are those of an `op_workshop`: what is protected is who builds when, and what is
left, not the ops themselves.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from op_workshop import OP, Workshop

from pytest_deepspeed.processes import build_op, op_cache, ops


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for this process."""
    monkeypatch.setenv("PYTEST_DS_OPS_CACHE", str(tmp_path))
    return op_cache.make_cache_dir("cpu")


@pytest.fixture
def library(cache):
    """A library and its stamp, as a builder leaves them; its contents do not matter here."""
    path = cache / OP / f"{OP}.so"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)) * 16)
    op_cache.stamp(OP, "cpu")
    return path


def wait_for(condition, seconds=60.0):
    """Return once `condition` holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time given"
        time.sleep(0.02)


def alive(pid):
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_free(lock):
    """Whether a builder could take the lock now."""
    try:
        FileLock(lock).acquire(timeout=0).lock.release()
    except Timeout:
        return False
    return True


def torch_file_baton():
    """torch.utils.file_baton without the seconds that importing torch takes."""
    (torch,) = importlib.util.find_spec("torch").submodule_search_locations
    path = Path(torch, "utils", "file_baton.py")
    spec = importlib.util.spec_from_file_location("file_baton", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_importing_is_light():
    """The controller may import the module: it must bring neither torch nor DeepSpeed along."""
    code = (
        "import sys, pytest_deepspeed.processes.build_op;"
        "print(sorted({'torch', 'deepspeed', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_cache_dir_separates_what_cannot_be_shared(monkeypatch, tmp_path):
    """Accelerators, installations and CPUs must not load each other's binaries."""
    monkeypatch.setenv("PYTEST_DS_OPS_CACHE", str(tmp_path))
    here = ops.cache_dir("cpu")
    assert here.parent == tmp_path
    assert "-cpu-" in here.name
    assert ops.cache_dir("cuda") != here
    op_cache._key.cache_clear()
    monkeypatch.setattr(sys, "prefix", "/elsewhere")
    elsewhere = ops.cache_dir("cpu")
    monkeypatch.undo()
    op_cache._key.cache_clear()
    assert elsewhere.name[:-10] == here.name[:-10]
    assert elsewhere.name != here.name


def test_default_cache_is_under_xdg_cache_home(monkeypatch, tmp_path):
    """Without a variable of ours the cache goes where users expect caches."""
    monkeypatch.delenv("PYTEST_DS_OPS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ops.cache_dir("cpu").parent == tmp_path / "pytest-deepspeed" / "ops"


def test_built_wants_a_stamp_and_the_whole_library(library):
    """A half-written or cut-off library must never be imported: that is a crash, not an error."""
    assert ops.built(OP, "cpu") == library
    whole = library.read_bytes()
    library.write_bytes(whole[:-1])
    assert ops.built(OP, "cpu") is None
    library.write_bytes(whole)
    assert ops.built(OP, "cpu") == library  # as after copying the cache: new time, same contents
    library.write_bytes(whole[:-1] + b"x")
    assert ops.built(OP, "cpu") is None
    library.write_bytes(whole)
    stamp = library.parents[1] / f"{OP}.json"
    for damaged in ("", "[]", '{"size": 4096}'):
        stamp.write_text(damaged)
        assert ops.built(OP, "cpu") is None
    stamp.unlink()
    assert ops.built(OP, "cpu") is None


def test_environment_puts_the_interpreter_first():
    """Ninja is found by torch only on PATH, and another version of it rebuilds every op."""
    own = str(Path(sys.executable).parent)
    made = ops.environment({"PATH": f"/bin:{own}", "HOME": "/h"}, "cpu")
    assert made["PATH"] == f"{own}:/bin"
    assert made["HOME"] == "/h"
    assert made["DS_ACCELERATOR"] == "cpu"
    assert made["TORCH_EXTENSIONS_DIR"] == str(ops.cache_dir("cpu"))
    assert 1 <= int(made["MAX_JOBS"]) <= len(os.sched_getaffinity(0))
    assert ops.environment({"MAX_JOBS": "7"}, "cpu")["MAX_JOBS"] == "7"


def test_a_stale_baton_is_cleared(cache, capsys):
    """A build by torch waits for ever on the lock of a killed build, which is why this exists."""
    folder = cache / OP
    folder.mkdir()
    (folder / "lock").touch()
    build_op._clear_baton(OP, folder)
    assert not (folder / "lock").exists()
    assert capsys.readouterr().out == ""


def test_a_live_baton_is_waited_for(cache):
    """A build by torch itself in our folder is alive while somebody holds its lock open."""
    folder = cache / OP
    folder.mkdir()
    baton = torch_file_baton().FileBaton(str(folder / "lock"))
    assert baton.try_acquire()
    assert build_op._builders(folder) == [os.getpid()]
    baton.release()
    assert build_op._builders(folder) == []
    with subprocess.Popen(["sleep", "60"], cwd=folder) as compiler:
        wait_for(lambda: build_op._builders(folder) == [compiler.pid])
        compiler.kill()


def test_two_builders_build_once(tmp_path):
    """Of two builders one compiles, in spite of a dead build's leftovers; the other waits for it.

    The leftovers are torch's lock, a cut-off library and a stamp that does not fit it.
    """
    shop = Workshop(tmp_path)
    folder = shop.cache / OP
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / f"{OP}.so").write_bytes(b"\x7fELF")
    (shop.cache / f"{OP}.json").write_text(json.dumps({"size": 9, "mtime_ns": 9, "sha256": "9"}))

    first = shop.start()
    wait_for((shop.cache / f"{OP}.owner").exists)
    second = shop.start()
    (out, err), (out2, err2) = first.communicate(), second.communicate()

    assert (first.returncode, err) == (0, ""), err
    assert (second.returncode, err2) == (0, ""), err2
    assert len(shop.called("link")) == 1
    assert out.startswith(f"{OP}: compiling\n")
    assert out.splitlines()[-1].startswith(f"{OP}: ready in ")
    assert out2.startswith(f"{OP}: waiting for the build by process {first.pid} on ")
    assert out2.splitlines()[-1] == f"{OP}: already built"
    assert not (folder / "lock").exists()


@pytest.mark.parametrize("way", ["parent", "killed"])
def test_a_build_that_ends_early_leaves_nothing(tmp_path, way):
    """An agent that dies, or a killed builder, must leave no compiler and nothing to wait on."""
    shop = Workshop(tmp_path, compile_step="exec sleep 300")
    if way == "killed":
        starter = shop.start()
    else:  # a process between us and the builder, which then dies
        code = "import subprocess, sys; subprocess.run(sys.argv[1:])"
        starter = subprocess.Popen(
            [sys.executable, "-c", code, *ops.command(OP, "cpu")], env=shop.env
        )
    wait_for(lambda: shop.called("compile"))
    compilers = shop.called("compile")
    builder = int((shop.cache / f"{OP}.owner").read_text().split()[0])
    assert (shop.cache / OP / "lock").exists()
    assert not is_free(shop.cache / f"{OP}.lock")

    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    wait_for(lambda: not any(map(alive, [builder, *compilers])), seconds=5)
    wait_for(lambda: is_free(shop.cache / f"{OP}.lock"), seconds=5)
    wait_for(lambda: not build_op._builders(shop.cache / OP), seconds=5)
    assert not (shop.cache / OP / "lock").exists()
    assert not (shop.cache / f"{OP}.json").exists()


def test_compile_error_is_shown(tmp_path):
    """The compiler's own words and the log's path, not torch's forty lines of traceback."""
    shop = Workshop(tmp_path, compile_step="echo 'a.cpp:1:2: error: no such thing'; exit 1")
    run = shop.start()
    _, err = run.communicate()
    assert run.returncode == 1
    assert err == (
        f"DeepSpeed op {OP} did not compile:\n"
        f"  a.cpp:1:2: error: no such thing\n"
        f"all of it: {shop.cache}/{OP}.log\n"
    )
    assert not (shop.cache / OP / "lock").exists()


def test_missing_compiler_says_what_to_install(tmp_path):
    """On a fresh machine the first thing missing is g++."""
    run = Workshop(tmp_path).start(PATH="/nonexistent", CXX="c++")
    _, err = run.communicate()
    assert run.returncode == 1
    assert err == (
        f"DeepSpeed op {OP} cannot be built: there is no C++ compiler, c++ is not on PATH; "
        f"type: apt-get install g++ (or name a compiler: CXX=/path/to/g++)\n"
    )


def test_unwritable_cache_says_what_to_set(tmp_path):
    """A read-only home is common in containers; one message for all ops asked for."""
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "ops"
    run = subprocess.run(
        [sys.executable, "-m", "pytest_deepspeed.processes.ops", "build", OP, "cpu_lion"],
        env={**os.environ, "PYTEST_DS_OPS_CACHE": str(root), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == (
        f"cannot write to the cache of compiled DeepSpeed ops, {root / ops.cache_dir('cpu').name} "
        f"(Not a directory); name a folder that you may write to: PYTEST_DS_OPS_CACHE=DIR\n"
    )


def test_list_shows_state_and_size(library, capsys):
    """`list` tells a person which ops a run would still have to build."""
    assert ops.main(["--accelerator", "cpu", "list"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines[OP] == f"ready        0.0 MB  {library}"
    assert lines["fused_adam"] == "not built"
    assert set(lines) == set(ops.CPU_OPS)


def config(kind, stage=2, offload=None, params=None, **rest):
    """A DeepSpeed config with that optimizer and those offload devices."""
    zero = {"stage": stage}
    if offload:
        zero["offload_optimizer"] = {"device": offload, "nvme_path": "/tmp"}
    if params:
        zero["offload_param"] = {"device": params, "nvme_path": "/tmp"}
    return {"optimizer": {"type": kind, "params": {"lr": 0.1}}, "zero_optimization": zero} | rest


NEEDED = {
    "adam": (config("Adam"), ["fused_adam"]),
    "adamw-zero0": (config("AdamW", stage=0), ["fused_adam"]),
    "adamw-cpu": (config("AdamW", offload="cpu"), ["cpu_adam"]),
    "adam-nvme": (config("Adam", 3, "nvme"), ["async_io", "cpu_adam"]),
    "adam-nvme-zero2": (config("Adam", 2, "nvme"), ["cpu_adam"]),
    "adam-param-nvme": (config("Adam", 3, None, "nvme"), ["async_io", "fused_adam"]),
    "adagrad": (config("Adagrad"), []),
    "adagrad-cpu": (config("Adagrad", offload="cpu"), ["cpu_adagrad"]),
    "lion-cpu": (config("Lion", offload="cpu"), ["cpu_lion"]),
    "sgd": (config("SGD"), []),
    "client": ({"zero_optimization": {"stage": 2}}, []),
}
NEEDED["torch-adam-cpu"] = (config("Adam", offload="cpu"), [])
NEEDED["torch-adam-cpu"][0]["optimizer"]["params"]["torch_adam"] = True


@pytest.mark.parametrize("case", NEEDED)
def test_needed(case):
    """A forgotten op is compiled in a test's own time; one too many delays every run."""
    assert ops.needed(NEEDED[case][0], "cpu") == NEEDED[case][1]


def test_needed_leaves_out_what_an_accelerator_has_not():
    """DeepSpeed has FusedLamb and FusedLion only for CUDA, and says so itself when asked."""
    assert ops.needed(config("Lion"), "cpu") == []
    assert ops.needed(config("Lion"), "cuda") == ["fused_lion"]
    assert ops.needed(config("Lamb"), "cuda") == ["fused_lamb"]
    assert ops.needed({"zero_optimization": {"cpu_offload": True}, "optimizer": None}, "cpu") == []


ASKED = """
import json, os, sys, torch, deepspeed
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
import cpuinfo
cpuinfo.get_cpu_info = lambda: {}  # costs 1.2 s each time
from pytest_deepspeed.processes.ops import OpBuildError, install_hook
store = torch.distributed.FileStore(sys.argv[1] + "/store", 1)
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
asked = []
def request(name):
    asked.append(name)
    raise OpBuildError(f"{name} is asked for")
install_hook(request)
result = {}
for case, config in json.load(open(sys.argv[1] + "/configs.json")).items():
    asked.clear()
    model, why = torch.nn.Linear(4, 4), ""
    optimizer = None if "optimizer" in config else torch.optim.SGD(model.parameters(), lr=0.1)
    config |= {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True,
               "zero_force_ds_cpu_optimizer": False}
    try:
        deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    except Exception as error:
        while error.__cause__: error = error.__cause__
        why = f"{type(error).__name__}: {error}"
    result[case] = [list(asked), why]
json.dump(result, open(sys.argv[1] + "/result.json", "w"))
os._exit(0)
"""


def test_needed_is_what_deepspeed_asks_for(tmp_path):
    """The table follows DeepSpeed's source by hand; this asks DeepSpeed itself.

    The cache is empty and the request refused, so of two ops DeepSpeed gets to ask for one.
    """
    configs = {case: given for case, (given, _) in NEEDED.items()}
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    env = {**os.environ, "PYTEST_DS_OPS_CACHE": str(tmp_path / "cache"), "DS_ACCELERATOR": "cpu"}
    env |= {"OMP_NUM_THREADS": "1", "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    command = [sys.executable, "-c", ASKED, str(tmp_path)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    for case, (_, expected) in NEEDED.items():
        asked, why = result[case]
        if expected:
            assert len(asked) == 1, (case, asked, why)
            assert why == f"OpBuildError: {asked[0]} is asked for", case
            assert asked[0].replace("pin_memory", "async_io") in expected, (case, asked)
        else:
            assert (asked, why) == ([], ""), case


INCOMPATIBLE = (
    "Unable to JIT load the async_io op due to it not being compatible due to hardware/software "
    "issue. None"
)

HOOKED = """
import os, sys
import torch, deepspeed
from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdagradBuilder, CPULionBuilder
from deepspeed.ops.op_builder.builder import OpBuilder
from pytest_deepspeed.processes.ops import OpBuildError, install_hook
original = OpBuilder.jit_load
def request(name):
    raise OpBuildError(f"no {name} today")
remove = install_hook(request)
module = CPUAdagradBuilder().load()
assert module.__file__ == sys.argv[1], module.__file__
assert CPUAdagradBuilder().load() is module
try:
    CPULionBuilder().load()
except OpBuildError as error:
    print(error)
os.environ["CC"] = "/nonexistent"
OpBuilder._loaded_ops["pin_memory"] = sys._deepspeed_pin_memory_op_module = module
try:
    AsyncIOBuilder().load()
except RuntimeError as error:
    print(type(error).__name__, error)
remove()
assert OpBuilder.jit_load is original
"""


def test_hook_imports_what_is_built_and_asks_for_the_rest(tmp_path):
    """A rank must never compile: it imports, or waits for the agent, or gets the agent's reason."""
    shop = Workshop(tmp_path)
    path = shop.cache / OP / f"{OP}.so"
    path.parent.mkdir(parents=True)
    source = [str(shop.folder / "module.c"), "-o", str(path)]
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(["g++", "-xc", "-shared", "-fPIC", include, *source], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DS_OPS_CACHE", shop.env["PYTEST_DS_OPS_CACHE"])
        op_cache.stamp(OP, "cpu")
    script = textwrap.dedent(HOOKED)
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env=shop.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert [line for line in run.stdout.splitlines() if "no " in line or "Error" in line] == [
        "no cpu_lion today",
        f"RuntimeError {INCOMPATIBLE}",
    ]
