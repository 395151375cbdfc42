"""The data sets and what is said where they cannot be loaded."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from reference_training import datasource
from reference_training.compat import import_torchvision
from reference_training.data import DataError, check, load

AGAIN = "unpack cifar-10-python.tar.gz again"


def test_cifar10_is_what_torchvision_gives(cifar10_dir):
    """Pixels and labels are those of torchvision with the tutorial's transform, bit for bit."""
    data = load(cifar10_dir)
    import_torchvision()
    from torchvision import transforms

    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
    )
    folder = cifar10_dir / "cifar-10-batches-py"
    files = [pickle.loads((folder / f"data_batch_{n}").read_bytes()) for n in range(1, 6)]
    pixels = np.concatenate([file["data"] for file in files]).reshape(-1, 3, 32, 32)
    expected = torch.stack([transform(image.transpose(1, 2, 0)) for image in pixels])
    images, labels = data.batch(torch.arange(30))
    assert torch.equal(images, expected)
    assert labels.tolist() == [label for file in files for label in file["labels"]]
    assert data.description == f"images in CIFAR10's format from {cifar10_dir} (30 images)"
    image, label = data[7]
    assert (len(data), label) == (30, labels[7])
    assert torch.equal(image, expected[7])


def test_cifar10_held_out_images(cifar10_dir):
    """`train=False` reads the test file."""
    data = load(str(cifar10_dir), train=False)
    assert data.description == f"images in CIFAR10's format from {cifar10_dir} (4 test images)"


def test_no_such_directory(tmp_path):
    """A path with a slip in it is an error that names the path."""
    with pytest.raises(DataError) as error:
        check(tmp_path / "dta")
    assert str(error.value) == (
        f"the data directory {tmp_path / 'dta'} does not exist: "
        "give the one that holds cifar-10-batches-py"
    )


def test_unknown_word():
    """A word with a slip in it names the words there are."""
    with pytest.raises(DataError) as error:
        check("digit")
    assert str(error.value) == (
        "unknown data 'digit': neither a directory here nor one of 'digits' and 'synthetic'"
    )


def test_the_folder_is_missing(tmp_path):
    """An empty directory says what should be in it and how to get it."""
    with pytest.raises(DataError) as error:
        check(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds no folder cifar-10-batches-py: give the directory above it, or, where "
        'there is internet: python -c "from torchvision.datasets import CIFAR10; '
        f"CIFAR10('{tmp_path}', download=True)\""
    )


def test_a_file_is_missing(cifar10_dir):
    """The missing file is named."""
    path = cifar10_dir / "cifar-10-batches-py" / "data_batch_3"
    path.unlink()
    with pytest.raises(DataError) as error:
        check(cifar10_dir)
    assert str(error.value) == f"{path} is missing: {AGAIN}"


@pytest.mark.parametrize("size", [0, 1000])
def test_a_file_is_truncated(cifar10_dir, size):
    """A copy that broke off is seen without reading the images, and named."""
    path = cifar10_dir / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError) as error:
        check(cifar10_dir)
    assert str(error.value) == (
        f"{path} is truncated or no file of CIFAR10 ({size:,} bytes): {AGAIN}"
    )


def test_a_file_cannot_be_read(cifar10_dir):
    """What the system says is passed on, with the file."""
    path = cifar10_dir / "cifar-10-batches-py" / "data_batch_1"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError) as error:
        check(cifar10_dir)
    assert str(error.value) == f"{path} cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            {"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]},
            "no uint8 images of 3 x 32 x 32",
        ),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "not one label to each image"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "labels outside 0 to 9"),
        ({"data": os.system, "labels": [1]}, "it names posix.system"),
        (["data"], "no uint8 images of 3 x 32 x 32"),
    ],
)
def test_a_file_is_damaged_inside(cifar10_dir, content, why):
    """Whole pickles with the wrong content are named too, and no code in them is run."""
    path = cifar10_dir / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps(content, protocol=2))
    check(cifar10_dir)
    with pytest.raises(DataError) as error:
        load(cifar10_dir)
    assert str(error.value) == f"{path} is damaged ({why}): {AGAIN}"


def test_label_names_are_damaged(cifar10_dir):
    """The seventh file is looked at as well."""
    path = cifar10_dir / "cifar-10-batches-py" / "batches.meta"
    path.write_bytes(pickle.dumps({}, protocol=2))
    with pytest.raises(DataError) as error:
        load(cifar10_dir)
    assert str(error.value) == f"{path} is damaged (no ten label names): {AGAIN}"


def test_an_original_with_wrong_pixels(cifar10_dir, write_batch):
    """A file as large as the original's is checked by the original's MD5 checksum."""
    path = cifar10_dir / "cifar-10-batches-py" / "data_batch_4"
    write_batch(path, 10_000, np.random.default_rng(0))
    with pytest.raises(DataError) as error:
        load(cifar10_dir)
    assert str(error.value) == (
        f"{path} is damaged: it has the original's 10,000 images but not its MD5 checksum "
        f"634d18415352ddfa80567beed471001a; {AGAIN}"
    )


def test_digits():
    """The 8 x 8 images keep their range and become three equal channels."""
    data = load("digits")
    images, labels = data.batch(torch.arange(1797))
    assert data.description == (
        "digits: scikit-learn's 1,797 handwritten digits, resized to 3 x 32 x 32"
    )
    assert images.shape == (1797, 3, 32, 32)
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(images[:, 0], images[:, 2])
    assert sorted(set(labels.tolist())) == list(range(10))


def test_digits_have_no_held_out_images():
    """Asking for what is not there is an error, not the training images again."""
    with pytest.raises(DataError, match=r"^the digits have no held-out images: all 1,797 are for"):
        load("digits", train=False)


@pytest.mark.parametrize("spec", [None, "synthetic"])
def test_synthetic(spec):
    """The synthetic set depends on its seed and on no generator, and covers all classes."""
    before = torch.get_rng_state()
    first, again, other = load(spec), load(spec), load(spec, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.description == "synthetic (2,048 images)"
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)
    assert len(torch.unique(first.labels)) == 10


def test_synthetic_held_out_images_are_of_the_same_classes():
    """The nearest class mean of the training images classifies the held-out ones."""
    train, test = load(None), load(None, train=False)
    pixels = train.images.flatten(1).float()
    means = torch.stack([pixels[train.labels == label].mean(0) for label in range(10)])
    nearest = torch.cdist(test.images.flatten(1).float(), means).argmin(1)
    assert (nearest == test.labels).float().mean() > 0.99
    assert not torch.equal(train.images, test.images)


def test_the_check_imports_neither_torch_nor_torchvision(cifar10_dir):
    """A process that only looks whether a run can start does not pay for torch."""
    script = (
        "import sys; from reference_training import adapt, configs; "
        "from reference_training.datasource import check; "
        f"check({str(cifar10_dir)!r}); check('digits'); check(None); configs.load(3); "
        "print(sorted({'torch', 'torchvision', 'deepspeed', 'sklearn', 'numpy'} & {*sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_digits_without_scikit_learn(monkeypatch):
    """The extra that is missing is named as it is typed."""
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as Python marks what cannot be imported
    with pytest.raises(DataError) as error:
        datasource.check("digits")
    assert str(error.value) == (
        "the digits come with scikit-learn, which is not installed: "
        "pip install 'pytest-deepspeed[digits]'"
    )
