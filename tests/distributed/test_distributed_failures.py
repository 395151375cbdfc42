"""What a user sees of a `DistributedTest` or `DistributedFixture` that fails."""

import inner
import pytest

IMPORTS = """
    import os
    import time

    import pytest

    from pytest_deepspeed import DistributedFixture, DistributedTest
"""

FIXTURE = (
    IMPORTS
    + """
    class half_a_checkpoint(DistributedFixture):
        world_size = 2

        def run(self):
            assert int(os.environ["RANK"]) == 0, "no checkpoint"

    class TestOfFixture(DistributedTest):
        world_size = 1

        def test_fixture(self, half_a_checkpoint):
            raise AssertionError("not reached")
"""
)

HANG = (
    IMPORTS
    + """
    class TestOfHang(DistributedTest):
        exec_timeout = 2

        def test_hang(self):
            time.sleep(100)
"""
)

BACKEND = (
    IMPORTS
    + """
    class TestOfBackend(DistributedTest):
        backend = "mpi"

        def test_backend(self):
            pass
"""
)

LARGE = (
    IMPORTS
    + """
    class crowd(DistributedFixture):
        world_size = 10_000

    class TestOfCrowd(DistributedTest):
        def test_crowd(self, crowd):
            pass
"""
)

SIZES = (
    IMPORTS
    + """
    class several(DistributedFixture):
        world_size = [1, 2]

    def test_sizes():
        pass
"""
)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """One session with all that is found out while tests run."""
    return inner.run(tmp_path_factory.mktemp("distributed"), FIXTURE, HANG)


def test_a_fixture_that_fails(session):
    """Protects: the test is an error in its set-up, with the ranks of the fixture, and how to
    repeat it.
    """
    shown = session.test(session.folder / "test_fixture.py")
    assert shown.failure == inner.text("""
        ERROR at setup of TestOfFixture.test_fixture

        self = <test_fixture.half_a_checkpoint object at 0xN>

            def run(self):
        >       assert int(os.environ["RANK"]) == 0, "no checkpoint"
        E       AssertionError: no checkpoint
        E       assert 1 == 0
        E        +  where 1 = int('1')

        test_fixture.py:12: AssertionError
        ------------------------------------ ranks -------------------------------------
        rank 0: passed
        rank 1: failed first, in call

        repeat it:
        pytest test_fixture.py::TestOfFixture::test_fixture --ds-seed=0
    """)


def test_exec_timeout(session):
    """Protects: the class's ``exec_timeout`` is the budget of its tests."""
    assert (
        "had not ended the body after 2 s" in session.test(session.folder / "test_hang.py").failure
    )


LISTS = """
    import pytest

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_pycollect_makeitem():
        made = yield
        return [made] if isinstance(made, pytest.Class) else made
"""


def test_beside_plugins_that_make_lists(tmp_path):
    """Protects: a class that another plugin hands on in a list runs on ranks all the same, as under
    pytest-asyncio.
    """
    tmp_path.joinpath("conftest.py").write_text(inner.text(LISTS))
    session = inner.run(tmp_path, FIXTURE, args=("-m", "world_size"))

    assert session.test(tmp_path / "test_fixture.py").failure.startswith("ERROR at setup")


def test_a_fixture_that_is_too_large(tmp_path):
    """Protects: its size is looked at as a test's is, and the text is all that is shown."""
    session = inner.run(tmp_path, LARGE)
    shown = session.test(tmp_path / "test_crowd.py").failure

    assert shown.startswith("ERROR at setup of TestOfCrowd.test_crowd\ncrowd: world_size 10000 is")
    assert "Traceback" not in shown


REFUSED = {
    "backend": (
        BACKEND,
        (
            "test_backend.py:11: test_backend: backend 'mpi' is not for ranks on cpu; leave"
            " `backend` out for the device's own"
        ),
    ),
    "sizes": (
        SIZES,
        (
            "test_sizes.py::several: a DistributedFixture has one world_size, not [1, 2]; derive a"
            " class for each"
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, case):
    """Protects: what cannot be is said before any test runs."""
    source, said = REFUSED[case]
    session = inner.run(tmp_path, source)

    assert session.status != 0
    assert said in " ".join(session.output.split())
