"""Work around one broken pair of packages, and only that one."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

# A torch.library.Library withdraws its definitions when it is collected.
_kept: list[Any] = []

# As in torchvision's own C++ sources (torchvision/csrc/ops/nms.cpp and quantized/cpu/qnms_kernel).
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled operators do not load.

    PyPI's torchvision is built for PyPI's torch. Beside a CPU-only torch its library fails to load,
    which it tolerates, and then it registers shapes for operators that the library should have
    defined, which fails: `RuntimeError: operator torchvision::nms does not exist`. On that error
    alone the two operators are declared, without an implementation, and the import is repeated.
    Datasets and transforms need neither.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    from torch import library as torch_library

    library: Any = torch_library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)
    _kept.append(library)
    return importlib.import_module("torchvision")
