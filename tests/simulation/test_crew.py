"""Worker processes: an error in one is reported, and all end."""

import os
import signal

import psutil
import pytest

from cdtl_core.errors import CdtlError, DataError
from cdtl_core.simulation.crew import Processes


def fails(task: int) -> None:
    if task == 2:
        raise DataError("two cannot be done: leave it out.")
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == 4:
        raise KeyError("four")


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("task", "error", "says"),
    [
        (2, DataError, "two cannot"),
        (3, CdtlError, "ended by SIGKILL.*free memory"),
        (4, RuntimeError, "KeyError: 'four'"),
        (5, CdtlError, "ended with SIGSEGV: its last lines above"),
    ],
)
def test_an_error_in_a_process_is_told_and_all_processes_end(
    task: int, error: type[Exception], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = psutil.Process().children()  # readers of images that other tests started wait for the next image
    with pytest.raises(error, match=says):
        list(Processes(2).work_through([task, 1], fails))
    found = [" ".join(child.cmdline()) for child in psutil.Process().children() if child not in before]
    assert [command for command in found if "resource_tracker" not in command] == []  # Python's own, ends with it
    if task == 5:
        told = capfd.readouterr().err
        assert "Fatal Python error: Segmentation fault" in told
        assert "test_crew.py" in told
