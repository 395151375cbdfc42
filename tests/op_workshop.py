"""Op builds in seconds: DeepSpeed's own, but for the compiler.

They go through DeepSpeed's OpBuilder, torch and ninja with a substitute for g++ which compiles a
module of three lines of C in place of DeepSpeed's sources: who builds when, what is told and what
is left is as always.
"""

import os
import shutil
import subprocess
import sysconfig

from pytest_deepspeed.processes import ops

#: The op that is built.
OP = "cpu_adagrad"

MODULE = """
#include <Python.h>
static struct PyModuleDef def = {PyModuleDef_HEAD_INIT, "%(op)s", 0, -1, 0};
PyMODINIT_FUNC PyInit_%(op)s(void) { return PyModule_Create(&def); }
"""

COMPILER = """\
#!/bin/sh
for last; do :; done
case " $* " in
*" -c "*) echo compile $$ >> %(calls)s; %(compile)s ;;
*" -shared "*)
    echo link $$ >> %(calls)s
    exec %(gcc)s -shared -fPIC -I%(include)s %(module)s -o "$last" ;;
*) exec %(gcc)s "$@" ;;
esac
"""


class Workshop:
    """A cache of its own, and a substitute compiler that writes down when it is called."""

    def __init__(self, folder, compile_step='touch "$last"'):
        self.folder = folder
        self.calls = folder / "calls"
        self.calls.touch()
        module = folder / "module.c"
        module.write_text(MODULE % {"op": OP})
        compiler = folder / "g++"
        compiler.write_text(
            COMPILER
            % {
                "calls": self.calls,
                "compile": compile_step,
                "gcc": shutil.which("g++"),
                "include": sysconfig.get_path("include"),
                "module": module,
            }
        )
        compiler.chmod(0o755)
        self.env = {
            **os.environ,
            "PYTEST_DS_OPS_CACHE": str(folder / "cache"),
            "CXX": str(compiler),
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        }

    @property
    def cache(self):
        return self.folder / "cache" / ops.cache_dir("cpu").name

    def start(self, op=OP, **environment):
        return subprocess.Popen(
            ops.command(op, "cpu"),
            env=ops.environment({**self.env, **environment}, "cpu")
            | {"TORCH_EXTENSIONS_DIR": str(self.cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def called(self, step):
        return [
            int(line.split()[1])
            for line in self.calls.read_text().splitlines()
            if line.startswith(step)
        ]
