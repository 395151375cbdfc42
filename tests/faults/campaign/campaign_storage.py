"""Faults of storage: what is swapped to, and what checkpoints are saved to."""

import json

from campaign_struck import RED, USAGE, Fault, Scene, mounted

#: Steps and ranks of the training; see `campaign_swapping`.
_STEPS, _RANKS = 6, 2


def _scene(removes=False, nvme="nvme", **expected):
    def set_up(folder, choice):
        for name in (nvme, "checkpoint"):
            folder.joinpath(name).mkdir(exist_ok=True)
        scene = {}
        if removes:
            scene["removed"] = [choice.randrange(_STEPS), choice.randrange(_RANKS)]
        folder.joinpath("scene.json").write_text(json.dumps(scene))
        return {}

    def left(folder):
        return [f"{path} in nvme_path" for path in folder.joinpath(nvme).rglob("*")]

    usual = {"test_swaps": "", "test_saves": "", "test_after": ""}
    return Scene("campaign_swapping.py", usual | expected, set_up, left)


_NVME = ("--ds-nvme-path=nvme",)
_FULL = r"No space left on device|unexpected pos|file write failed"

#: DeepSpeed writes on, and finds the file too short when it reads it back.
_TOO_SHORT = r"was killed by SIGABRT(?s:.*)file_offset \+ buffer nbytes > file bytes"

FAULTS = (
    Fault(
        "nvme_full",
        "nvme_path: full",
        inside=mounted("mount -t tmpfs -o size=256k none nvme"),
        arguments=_NVME,
        scene=_scene(test_swaps=_TOO_SHORT),
    ),
    Fault(
        "nvme_removed",
        "nvme_path: removed while training",
        arguments=_NVME,
        scene=_scene(removes=True, test_swaps=r"\.swp"),
    ),
    Fault(
        "nvme_tmpfs",
        "nvme_path: on a tmpfs",
        statuses=(0,),
        inside=mounted("mount -t tmpfs none nvme"),
        arguments=_NVME,
        scene=_scene(),
    ),
    Fault(
        "nvme_read_only",
        "nvme_path: not writable",
        statuses=(USAGE,),
        says=("nvme cannot be written (Read-only file system)",),
        inside=mounted("mount -t tmpfs -o ro none nvme"),
        arguments=_NVME,
        reports=False,
        scene=_scene(),
    ),
    Fault(
        "nvme_shared",
        "nvme_path: shared by two jobs",
        statuses=(0,),
        arguments=("--ds-nvme-path=../nvme",),
        copies=2,
        scene=_scene(nvme="../nvme"),
    ),
    Fault(
        "checkpoint_full",
        "checkpoint: disk full in the middle of a save",
        statuses=(RED,),
        inside=mounted("mount -t tmpfs -o size=$((300 + $$ % 300))k none checkpoint"),
        scene=_scene(test_saves=_FULL),
    ),
)
