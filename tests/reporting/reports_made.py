"""Reports made by hand, as sessions leave them, for tests of the renderers."""

import dataclasses

from pytest_deepspeed.reporting.model import Report, Test

#: What a file's name or a process's output may hold, and no report may take for markup.
HOSTILE = (
    "</pre><script>alert(1)</script>|`**b**`\x1b[31m\x07\u202e::error::x\r\n::set-output \"'&%"
)

TRAINING = {
    "config": "conf/ds_config.json",
    "mode": "zero2-fp32",
    "world_size": 2,
    "device": "cpu",
    "backend": "gloo",
    "dtype": "fp32",
    "data": "10 clusters of 16 features, drawn anew at each step",
    "loss": [2.765, 2.6, 2.4, 2.1, 1.95, 1.869],
    "twin_loss": [2.765, 2.6, 2.41, 2.1, 1.95, 1.87],
    "grad_norm": [1.0, 0.9, 0.9, 0.8, 0.8, 0.7],
    "lr": [0.001] * 6,
    "step_time": [0.05, 0.02, 0.021, 0.019, 0.02, 0.022],
    "samples_per_second": 400.0,
    "memory": {
        "held": {
            "parameters": [50_000, 50_000],
            "optimizer": [43_000, 43_000],
            "nvme": [0, 0],
            "other": [8, 9],
        },
        "expected": {"parameters": 50_000, "optimizer": 21_500, "nvme": 0},
        "peaks": {"tensors": [120_000, 121_000], "host": [9_000_000, 9_100_000]},
        "nvme": [0, 0],
    },
    "effective": ["top level", "  + gradient_accumulation_steps: 1"],
}

AGAINST = {
    "config": "conf/ds_config.json",
    "base": "origin/main (1a2b3c4)",
    "loss": [2.765, 2.6, 2.4, 2.1, 1.95, 1.869],
    "base_loss": [2.765, 2.7, 2.65, 2.5, 2.45, 2.4],
    "step_time": [[0.02, 0.021, 0.022], [0.02, 0.019, 0.02]],
    "base_step_time": [[0.03, 0.031, 0.032], [0.03, 0.029, 0.03]],
    "step_time_ratio": {"median": 0.667, "low": 0.62, "high": 0.71},
    "memory": {"parameters": [50_000, 50_000], "optimizer": [21_500, 43_000]},
    "peaks": {"tensors": [100_000, 121_000]},
    "optimizer": ["AdamW", "SGD"],
    "config_diff": '--- base\n+++ head\n@@ -1 +1 @@\n-  "lr": 0.001\n+  "lr": 0.01\n',
    "effective_diff": ["- optimizer.params.lr: 0.001", "+ optimizer.params.lr: 0.01"],
    "findings": [
        {
            "name": "loss",
            "message": "the loss of step 1 is 2.6, the base has 2.7: 3.7e-02 of it,"
            " tolerance 1e-05",
        }
    ],
    "notes": ["one step was skipped"],
    "costs": [
        "the head's config loads the base's checkpoint and goes on with the same loss",
        "a step takes 0.67 times as long (half of the steps 0.62 to 0.71)",
    ],
    "reasons": ["optimizer.params.lr was 0.001 and is 0.01"],
    "accepted": "",
    "digest": "c0ffee12",
    "checkpoint": "the head's config loads the base's checkpoint and goes on with the same loss",
    "verdict": "red",
}

PROBLEM = {
    "path": "conf/ds_config.json",
    "line": 3,
    "column": 5,
    "rule": "DS101",
    "name": "unknown-key",
    "severity": "error",
    "message": 'DeepSpeed ignores "gradient_cliping", a key that it does not know',
    "instead": 'did you mean "gradient_clipping"?',
}
WARNING = {**PROBLEM, "rule": "DS901", "name": "default-gradient-clipping", "severity": "warning"}
SUPPRESSED = {**PROBLEM, "line": 4, "reason": "a key of our own launcher"}


def made(outcome="passed", nodeid="conf/ds_config.json::parity", **more):
    """A test of the config, or what else is said of it."""
    common = {"check": "parity", "config": "conf/ds_config.json", "world_size": 2}
    values = {"path": nodeid.partition("::")[0], "seconds": 1.5, **common, **more}
    return Test(nodeid=nodeid, outcome=outcome, **values)


def report(*tests, **more):
    """A session with these tests."""
    values = {
        "version": "0.1.0",
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 12.5,
        "command": "pytest conf",
        "rootdir": "project",
        "prefix": "",
        "machine": {"cores": "2", "device": "cpu", "torch": "2.13", "deepspeed": "0.19.8"},
        "exit_status": 1 if any(test.red for test in tests) else 0,
        "incomplete": "",
        "header": (),
        "tests": tests,
    }
    return Report(**{**values, **more})


def red():
    """A session in which most that a report can show has gone wrong."""
    finding = AGAINST["findings"][0]["message"]
    schema = "conf/ds_config.json:3:5: DS101 unknown-key"
    return report(
        made(details={"training": [TRAINING]}, check="loss", nodeid="conf/ds_config.json::loss"),
        made(
            "failed",
            nodeid="conf/ds_config.json::against",
            check="against",
            message=f"against.loss: {finding}",
            reason=("against origin/main (1a2b3c4): 1 finding", f"- against.loss: {finding}"),
            text=f"against origin/main (1a2b3c4): 1 finding\n- against.loss: {finding}",
            details={"against": [AGAINST]},
        ),
        made(
            "failed",
            nodeid="conf/ds_config.json::schema",
            check="schema",
            message=schema,
            reason=(schema, PROBLEM["message"]),
            text=schema,
            details={"problem": [PROBLEM, WARNING], "suppressed": [SUPPRESSED]},
        ),
        made(
            "failed",
            nodeid="test_ranks.py::test_all_reduce",
            line=6,
            check="",
            config="",
            message="rank 1: AssertionError: rank 1 has not joined",
            reason=("rank 1: AssertionError: rank 1 has not joined", "assert 1 == 0"),
            text=">   assert rank == 0\nE   AssertionError: rank 1 has not joined\nE   assert 0",
            ranks=(("rank 0: last collective all_reduce", "File a.py, line 3, in test"),),
            sections=(("Captured stdout [rank 0]", "before, on rank 0"),),
        ),
    )


def hostile():
    """A session whose every text is an attack on whoever renders it."""
    told = {"config": HOSTILE, "base": HOSTILE, "checkpoint": HOSTILE, "accepted": HOSTILE}
    texts = {
        "config_diff": HOSTILE,
        "effective_diff": [HOSTILE],
        "notes": [HOSTILE],
        "costs": [HOSTILE],
    }
    names = {"findings": [{"name": HOSTILE, "message": HOSTILE}], "digest": HOSTILE}
    problem = {"path": HOSTILE, "name": HOSTILE, "message": HOSTILE, "instead": HOSTILE}
    details = {
        "training": [{**TRAINING, "config": HOSTILE, "data": HOSTILE, "effective": [HOSTILE]}],
        "against": [{**AGAINST, **told, **texts, **names, "optimizer": ["a", HOSTILE]}],
        "suppressed": [{**PROBLEM, **problem, "reason": HOSTILE}],
    }
    test = made(
        "failed",
        nodeid=f"{HOSTILE}::test",
        config=HOSTILE,
        check=HOSTILE,
        message=HOSTILE,
        reason=(HOSTILE,),
        text=f"E   {HOSTILE}",
        ranks=((HOSTILE, HOSTILE),),
        sections=((HOSTILE, HOSTILE),),
        properties=((HOSTILE, HOSTILE),),
        details=details,
    )
    rule = {"problem": [{**PROBLEM, **problem}]}
    machine = {"cores": HOSTILE, "torch": HOSTILE}
    other = dataclasses.replace(test, nodeid=HOSTILE, details=rule)
    return report(test, other, command=HOSTILE, header=(HOSTILE,), machine=machine)
