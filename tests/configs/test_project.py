"""What ``[tool.pytest_deepspeed]`` may say, and what is said of what it may not."""

import pytest
from inner import text

from pytest_deepspeed.configs import project


def written(tmp_path, toml):
    """The project of a ``pyproject.toml`` with this in it."""
    tmp_path.joinpath("pyproject.toml").write_text(text(toml))
    return project.read(tmp_path)


def test_nothing_is_said_by_default(tmp_path):
    """Protects: without the table, or the file, every config has the defaults."""
    nothing = project.read(tmp_path).of(tmp_path / "ds_config.json")

    assert nothing == written(tmp_path, "[project]\n").of(tmp_path / "ds_config.json")
    assert nothing == project.FileSettings()


def test_all_keys(tmp_path):
    """Protects: each key is read, sizes of memory in bytes."""
    said = written(
        tmp_path,
        """
        [tool.pytest_deepspeed]
        select = ["DS1", "DS4"]
        ignore = {DS101 = "our launcher reads these keys"}
        checks = ["memory", "schema"]
        world_sizes = [2, 4]
        target_world_sizes = 64
        nodes = 8
        device = "cpu"
        huggingface = true
        hidden_size = 4096
        training_arguments = {bf16 = true}
        steps = 10
        tolerances = {loss = 1e-3}
        limit_rank_memory = {host = "1 GiB", optimizer = "2 MB"}
        """,
    )

    assert said.of(tmp_path / "any.json") == project.FileSettings(
        select=("DS1", "DS4"),
        ignore={"DS101": "our launcher reads these keys"},
        checks=("schema", "memory"),
        world_sizes=(2, 4),
        target_world_sizes=(64,),
        nodes=8,
        device="cpu",
        huggingface=True,
        hidden_size=4096,
        training_arguments={"bf16": True},
        steps=10,
        tolerances={"loss": 1e-3},
        limit_rank_memory={"host": 2**30, "optimizer": 2_000_000},
    )


def test_files_that_match_a_pattern(tmp_path):
    """Protects: a table of some files wins over that of all, and a later one over an earlier."""
    said = written(
        tmp_path,
        """
        [tool.pytest_deepspeed]
        steps = 4

        [[tool.pytest_deepspeed.configs]]
        files = "large/*"
        steps = 5
        world_sizes = 4

        [[tool.pytest_deepspeed.configs]]
        files = ["ds_config_b.json", "other/*.json"]
        steps = 6
        """,
    )

    def of(name):
        found = said.of(tmp_path / name)
        return found.steps, found.world_sizes

    assert of("ds_config_a.json") == (4, ())
    assert of("large/ds_config_a.json") == (5, (4,))
    assert of("large/ds_config_b.json") == (6, (4,))
    assert of("other/x.json") == (6, ())


def test_selection_of_rules(tmp_path):
    """Protects: rules are chosen by id or family; what is ignored is so even if it is selected."""
    said = written(
        tmp_path, '[tool.pytest_deepspeed]\nselect = ["DS1", "DS402"]\nignore = ["DS102"]\n'
    ).of(tmp_path / "ds_config.json")

    assert [i for i in ("DS101", "DS102", "DS401", "DS402") if said.reports(i)] == [
        "DS101",
        "DS402",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("word_sizes = 2", "there is no key 'word_sizes'; did you mean 'world_sizes'?"),
        (
            "zzz = 2",
            (
                "there is no key 'zzz'; there are select, ignore, checks, world_sizes,"
                " target_world_sizes, nodes, device, huggingface, hidden_size,"
                " training_arguments, steps, arguments, tolerances, limit_rank_memory"
            ),
        ),
        (
            "world_sizes = [2, 0]",
            "world_sizes: a whole number of 1 or more, or a list of such: [2, 4], got [2, 0]",
        ),
        ("steps = true", "steps: a whole number of 1 or more, got True"),
        ('device = "tpu"', 'device: "cuda" or "cpu", got \'tpu\''),
        ("huggingface = 1", "huggingface: true or false, got 1"),
        (
            'checks = ["parody"]',
            (
                "checks: a list of some of schema, loss, ranks, parity, engagement, memory,"
                " checkpoint, reshard, against, got ['parody']"
            ),
        ),
        (
            'select = ["unknown-key"]',
            (
                'select: a list of rules, or of how their ids begin: ["DS101", "DS4"], got'
                " ['unknown-key']"
            ),
        ),
        (
            "ignore = {DS101 = 1}",
            (
                'ignore: rules, with reasons: {DS601 = "the base config is for stage 3 too"}, got'
                " {'DS101': 1}"
            ),
        ),
        (
            "tolerances = {los = 1.0}",
            (
                "tolerances: some of loss, grad_norm, parameters, moments, not 'los', got"
                " {'los': 1.0}"
            ),
        ),
        (
            "tolerances = {loss = 0}",
            "tolerances: a number above 0 for loss, got {'loss': 0}",
        ),
        (
            'limit_rank_memory = "1.5 Gib"',
            (
                "limit_rank_memory: a size is a number and a unit, got '1.5 Gib': write \"1.5 GiB\""
                " (units: B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB), got '1.5 Gib'"
            ),
        ),
        (
            'limit_rank_memory = {ram = "1 GiB"}',
            (
                "limit_rank_memory: a size, or a table with some of host, device, tensors,"
                " parameters, gradients, masters, optimizer, nvme, got {'ram': '1 GiB'}"
            ),
        ),
    ],
)
def test_wrong_keys_and_values(tmp_path, line, message):
    """Protects: what is wrong is named with its key, and what may stand there."""
    with pytest.raises(project.ProjectError) as raised:
        written(tmp_path, f"[tool.pytest_deepspeed]\n{line}\n")

    where = f"{tmp_path / 'pyproject.toml'}: [tool.pytest_deepspeed]: "
    assert str(raised.value) == where + message


def test_wrong_tables_of_some_files(tmp_path):
    """Protects: the table that is wrong is named by its number; one needs its files."""
    with pytest.raises(project.ProjectError) as missing:
        written(tmp_path, "[[tool.pytest_deepspeed.configs]]\nsteps = 2\n")
    with pytest.raises(project.ProjectError) as second:
        written(
            tmp_path,
            """
            [[tool.pytest_deepspeed.configs]]
            files = "a"
            [[tool.pytest_deepspeed.configs]]
            files = "b"
            step = 1
            """,
        )
    with pytest.raises(project.ProjectError) as single:
        written(tmp_path, "[tool.pytest_deepspeed.configs]\nfiles = 'a'\n")

    file = tmp_path / "pyproject.toml"
    assert str(missing.value) == (
        f"{file}: [[tool.pytest_deepspeed.configs]] number 1: files: a pattern, or a list of such:"
        ' files = "conf/*.json"'
    )
    assert str(second.value) == (
        f"{file}: [[tool.pytest_deepspeed.configs]] number 2: there is no key 'step'; did you mean"
        " 'steps'?"
    )
    assert str(single.value) == (
        f"{file}: write [[tool.pytest_deepspeed.configs]], in double brackets, with its files"
    )


def test_a_file_that_is_no_toml(tmp_path):
    """Protects: a broken ``pyproject.toml`` is named with the line."""
    with pytest.raises(project.ProjectError) as raised:
        written(tmp_path, "[tool.pytest_deepspeed\n")

    assert str(raised.value).startswith(f"{tmp_path / 'pyproject.toml'}: Expected ']'")
