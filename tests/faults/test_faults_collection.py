# ruff: noqa: E501 (messages are compared as they are shown)
"""Controller and agent collect the same tests, or say why not."""

import re

import pytest
from inner import text


@pytest.mark.inner(
    """
    import pytest, pytest_deepspeed

    if pytest_deepspeed.ds_role(None) == "agent":
        raise OSError("no licence server from this process")

    @pytest.mark.world_size(2)
    def test_agent_cannot_import():
        pass
    """
)
def test_a_module_that_only_the_agent_cannot_import(shown):
    """The traceback of the agent's import is the test's error; other modules are not affected."""
    assert shown.failure == text(
        """
        ERROR at setup of test_agent_cannot_import
        the agent has not collected test_agent_cannot_import.py::test_agent_cannot_import, since collecting failed in it:
        test_agent_cannot_import.py:
        test_agent_cannot_import.py:4: in <module>
            raise OSError("no licence server from this process")
        E   OSError: no licence server from this process
        """
    )
    assert shown.summary == [
        "ERROR test_agent_cannot_import.py::test_agent_cannot_import - Failed: the age..."
    ]


@pytest.mark.inner(
    """
    import os
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.parametrize("seed", [os.getpid()], ids=lambda pid: f"seed_{pid}")
    def test_random_ids(seed):
        pass
    """
)
def test_ids_that_differ_between_processes(shown):
    """A parametrization that is random is an error that shows both ids and says why."""
    assert re.sub(r"seed_\d+", "seed_N", shown.failure) == text(
        """
        ERROR at setup of test_random_ids[seed_N]
        the agent has not collected test_random_ids.py::test_random_ids[seed_N]; it has test_random_ids.py::test_random_ids[seed_N]. The controller and its agent must collect the same ids: a parametrization that is random, or ordered by a set, differs between processes
        """
    )


def test_a_module_that_cannot_be_imported(inner_session):
    """A module with an error at import is pytest's plain collection error."""
    session = inner_session(
        """
        import pytest
        import a_module_that_is_not_there

        @pytest.mark.world_size(2)
        def test_import_error():
            pass
        """
    )
    assert session.section("ERRORS") == text(
        """
        ____________________ ERROR collecting test_import_error.py _____________________
        ImportError while importing test module 'DIR/test_import_error.py'.
        Hint: make sure your test modules/packages have valid Python names.
        Traceback:
        python/importlib/__init__.py:N: in import_module
            return _bootstrap._gcd_import(name[level:], package, level)
                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        test_import_error.py:2: in <module>
            import a_module_that_is_not_there
        E   ModuleNotFoundError: No module named 'a_module_that_is_not_there'
        """
    )


def test_a_thread_at_import(inner_session):
    """A thread that an import starts is named, and the ranks are not forked from a process with it."""
    session = inner_session(
        """
        import threading, time
        import pytest

        threading.Thread(target=time.sleep, args=(60,), name="heartbeat", daemon=True).start()

        @pytest.mark.world_size(1)
        def test_thread():
            pass
        """
    )
    warning = session.section("warnings summary").partition("\n\n")[0]
    assert f"{warning}\n" == text(
        """
        test_thread.py::test_thread
          DIR/test_thread.py:6: RankSpawnWarning: importing a conftest or test module has started a thread (heartbeat): ranks are spawned, not forked
            @pytest.mark.world_size(1)
        """
    )
    assert "PASSED test_thread.py::test_thread" in session.output
