"""One long piece of work of a desk, beside the pages."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from cdtl_core.errors import CdtlError
from cdtl_core.system.durable import disk_fault
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.progress import listen

__all__ = ["Background", "Work"]

T = TypeVar("T")
_log = get_logger("cdtl.desk")


@dataclass(frozen=True)
class Work(Generic[T]):
    """The state of the work: its result once it is done, or a sentence: what it does, or why it failed."""

    state: Literal["none", "running", "done", "failed"]
    text: str = ""
    result: T | None = None


class Background(Generic[T]):
    """Runs a function in a thread, one at a time, and keeps its last result."""

    def __init__(self) -> None:
        self._work: Work[T] = Work("none")
        self._lock = threading.Lock()

    @property
    def work(self) -> Work[T]:
        """The state now."""
        return self._work

    def start(self, compute: Callable[[], T]) -> bool:
        """Start the work; False if it runs already."""
        with self._lock:
            if self._work.state == "running":
                return False
            self._work = Work("running")
        threading.Thread(target=self._run, args=(compute,), daemon=True).start()
        return True

    def _run(self, compute: Callable[[], T]) -> None:
        try:
            with listen(self._hear):
                self._work = Work("done", result=compute())
        except CdtlError as error:
            self._work = Work("failed", str(error))
        except OSError as error:
            self._work = Work("failed", str(disk_fault(error)))
        except Exception:
            _log.exception("the work of a page failed")
            self._work = Work("failed", "it ended by a fault of cdtl: the terminal of the desk says which.")

    def _hear(self, fields: Mapping[str, object]) -> None:
        (what, done), *_ = fields.items()
        if "of" in fields:
            self._work = Work("running", f"{done} of {fields['of']} {what}")
