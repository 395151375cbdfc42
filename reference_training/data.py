"""The data sets as tensors: CIFAR10 through torchvision, digits, and a synthetic set."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from reference_training import datasource
from reference_training.compat import import_torchvision
from reference_training.datasource import DataError, check

__all__ = ["DataError", "Dataset", "check", "load"]

_ORIGINAL_BATCH = 10_000  # images in each file of the original CIFAR10
_SYNTHETIC_IMAGES = 2_048


class Dataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images held as one uint8 tensor and transformed batch by batch.

    The transform is torchvision's `Compose([ToTensor(), Normalize((0.5, 0.5, 0.5), (0.5, 0.5,
    0.5))])`, computed for a whole batch at once with the same result to the last bit.

    Args:
        images: uint8 (N, 32, 32, 3).
        labels: int64 (N,), from 0 to 9.
        description: What the set is, for a header or a record.
    """

    def __init__(self, images: Tensor, labels: Tensor, description: str) -> None:
        self.images = images
        self.labels = labels
        self.description = description

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.batch(torch.tensor([index]))
        return image[0], int(label)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images, float32 (n, 3, 32, 32) in [-1, 1], and labels (n,) at `indices`."""
        images = self.images[indices].permute(0, 3, 1, 2).contiguous()
        return images.float().div_(255).sub_(0.5).div_(0.5), self.labels[indices]


def load(spec: str | Path | None = None, *, seed: int = 0, train: bool = True) -> Dataset:
    """Load the data set that `spec` names.

    Args:
        spec: The directory that holds `cifar-10-batches-py`; or `digits`; or None or `synthetic`.
        seed: Of the synthetic set, which depends on nothing else. The others ignore it.
        train: False for the held-out images: of CIFAR10 its test file, of the synthetic set other
            images of the same classes. The digits have none.

    Raises:
        DataError: the data are not there, are damaged, or need a package that is not installed.
    """
    check(spec)
    directory = datasource.root(spec)
    if directory is not None:
        return _cifar10(directory, train)
    return _digits(train) if spec == datasource.DIGITS else _synthetic(seed, train)


def _cifar10(root: Path, train: bool) -> Dataset:
    import_torchvision()
    from torchvision.datasets import CIFAR10

    name = "CIFAR10"
    try:
        cifar = CIFAR10(root, train=train, download=False)
    except RuntimeError:  # a checksum differs
        _check_smaller_set(root / datasource.FOLDER)

        class SmallerCIFAR10(CIFAR10):  # type: ignore[misc]
            train_list = [(file, None) for file in datasource.TRAIN_FILES]  # noqa: RUF012
            test_list = [(file, None) for file in datasource.TEST_FILES]  # noqa: RUF012
            meta = CIFAR10.meta | {"md5": None}

        cifar = SmallerCIFAR10(root, train=train, download=False)
        name = "images in CIFAR10's format"
    kind = "" if train else "test "
    description = f"{name} from {root} ({len(cifar.data):,} {kind}images)"
    return Dataset(torch.from_numpy(cifar.data), torch.tensor(cifar.targets), description)


def _check_smaller_set(folder: Path) -> None:
    """Let files pass that are whole and made by somebody; reject originals that are damaged.

    Raises:
        DataError: a file does not hold what it should, or is an original with a wrong checksum.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list):
        images, _ = datasource.read_batch(folder / name)
        if len(images) == _ORIGINAL_BATCH and not check_integrity(folder / name, md5):
            raise DataError(
                f"{folder / name} is damaged: it has the original's {_ORIGINAL_BATCH:,} images "
                f"but not its MD5 checksum {md5}; unpack cifar-10-python.tar.gz again"
            )
    datasource.read_meta(folder / datasource.META_FILE)


def _digits(train: bool) -> Dataset:
    if not train:
        raise DataError("the digits have no held-out images: all 1,797 are for training")
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)  # (N, 1, 8, 8), 0..16
    description = f"digits: scikit-learn's {len(grey):,} handwritten digits, resized to 3 x 32 x 32"
    return Dataset(
        _to_pixels(_resize(grey).expand(-1, 3, -1, -1)),
        torch.from_numpy(digits.target).long(),
        description,
    )


def _synthetic(seed: int, train: bool) -> Dataset:
    """Draw one smooth random image per class, and images that are it plus pixel noise."""
    coarse = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    prototypes = _to_pixels(_resize(coarse)).to(torch.int16)
    generator = torch.Generator().manual_seed(seed + (1 if train else 2))
    labels = torch.randint(10, (_SYNTHETIC_IMAGES,), generator=generator)
    shape = (_SYNTHETIC_IMAGES, 32, 32, 3)
    images = torch.randint(-110, 111, shape, generator=generator, dtype=torch.int16)
    images.add_(prototypes[labels]).clamp_(0, 255)
    kind = "" if train else "test "
    return Dataset(
        images.to(torch.uint8),
        labels,
        f"synthetic ({_SYNTHETIC_IMAGES:,} {kind}images)",
    )


def _resize(images: Tensor) -> Tensor:
    return functional.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)


def _to_pixels(images: Tensor) -> Tensor:
    """Turn (N, 3, 32, 32) of 0 to 255 into the uint8 (N, 32, 32, 3) of an image file."""
    return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
