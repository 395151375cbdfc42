"""Where the images come from, checked without importing torch or torchvision.

`check` is for a process that only decides whether a run can start: it looks at the files but does
not read the images. `read_batch` reads one file of CIFAR10 and trusts nothing in it.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

DIGITS = "digits"
SYNTHETIC = "synthetic"

FOLDER = "cifar-10-batches-py"
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES = ("test_batch",)
META_FILE = "batches.meta"

_UNPACK = "unpack cifar-10-python.tar.gz again"


class DataError(ValueError):
    """The data asked for cannot be used; the message says why and what to do about it."""


def root(spec: str | Path | None) -> Path | None:
    """Return the directory that `spec` names, or None for the built-in `digits` and `synthetic`.

    The two words win over directories of these names, which are reached as `./digits`.

    Raises:
        DataError: the word is unknown, or the directory does not exist.
    """
    if spec is None or (isinstance(spec, str) and spec in (DIGITS, SYNTHETIC)):
        return None
    path = Path(spec).expanduser()
    if path.is_dir():
        return path
    if isinstance(spec, str) and "/" not in spec:
        raise DataError(
            f"unknown data {spec!r}: neither a directory here nor one of "
            f"{DIGITS!r} and {SYNTHETIC!r}"
        )
    what = "is not a directory" if path.exists() else "does not exist"
    raise DataError(f"the data directory {path} {what}: give the one that holds {FOLDER}")


def check(spec: str | Path | None) -> None:
    """Raise `DataError` if `load(spec)` cannot work, at the price of opening seven files.

    A damaged image inside a whole file is not seen here; `reference_training.data.load` sees it.
    """
    directory = root(spec)
    if directory is not None:
        _check_files(directory)
    elif spec == DIGITS and importlib.util.find_spec("sklearn") is None:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: "
            "pip install 'pytest-deepspeed[digits]'"
        )


def _check_files(directory: Path) -> None:
    folder = directory / FOLDER
    if not folder.is_dir():
        raise DataError(
            f"{directory} holds no folder {FOLDER}: give the directory above it, or, where there "
            f'is internet: python -c "from torchvision.datasets import CIFAR10; '
            f'CIFAR10({str(directory)!r}, download=True)"'
        )
    for name in (*TRAIN_FILES, *TEST_FILES, META_FILE):
        _check_is_whole_pickle(folder / name)


def _check_is_whole_pickle(path: Path) -> None:
    try:
        with path.open("rb") as file:
            first = file.read(1)
            size = file.seek(0, 2)
            file.seek(max(size - 1, 0))
            last = file.read(1)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {_UNPACK}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    # A pickle of protocol 2 or newer begins with the opcode PROTO and ends with STOP.
    if first != pickle.PROTO or last != pickle.STOP:
        raise DataError(f"{path} is truncated or no file of CIFAR10 ({size:,} bytes): {_UNPACK}")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, lists and strings, and calls nothing else that a file may name."""

    _ALLOWED = frozenset(
        {
            ("_codecs", "encode"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except (OSError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is damaged ({error}): {_UNPACK}") from error


def read_batch(path: Path) -> tuple[Any, list[int]]:
    """Read one batch file: the uint8 array (images, 3072), channels first, and the labels 0 to 9.

    Raises:
        DataError: the file cannot be unpickled, or does not hold that.
    """
    batch = _unpickle(path)
    data: Any = batch.get("data") if isinstance(batch, dict) else None
    labels: Any = batch.get("labels") if isinstance(batch, dict) else None
    if str(getattr(data, "dtype", None)) != "uint8" or data.shape[1:] != (3 * 32 * 32,):
        raise DataError(f"{path} is damaged (no uint8 images of 3 x 32 x 32): {_UNPACK}")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise DataError(f"{path} is damaged (not one label to each image): {_UNPACK}")
    if not all(isinstance(label, int) and 0 <= label <= 9 for label in labels):
        raise DataError(f"{path} is damaged (labels outside 0 to 9): {_UNPACK}")
    return data, labels


def read_meta(path: Path) -> list[str]:
    """Read the names of the ten classes from `batches.meta`.

    Raises:
        DataError: the file cannot be unpickled, or does not hold that.
    """
    meta = _unpickle(path)
    names = meta.get("label_names") if isinstance(meta, dict) else None
    if not isinstance(names, list) or len(names) != 10:
        raise DataError(f"{path} is damaged (no ten label names): {_UNPACK}")
    return names
