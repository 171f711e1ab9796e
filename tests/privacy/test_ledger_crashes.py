"""A ledger under any order of reservations, commitments, crashes and restarts never counts too little."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cdtl_core.privacy.accounting import Steps, epsilon
from cdtl_core.privacy.ledger import Budget, Reservation, commit, open_ledger, reserve
from cdtl_core.privacy.ledger_file import read_ledger

DELTA = 1e-5
BUDGETS = {
    "first": Budget(target_epsilon=3.0, target_delta=DELTA, sample_rate=1.0, steps=24),
    "second": Budget(target_epsilon=5.0, target_delta=DELTA, sample_rate=1.0, steps=12),
}
run = st.sampled_from(sorted(BUDGETS))
crash = st.sampled_from(("none", "none", "torn", "before head.json"))
share = st.floats(0, 1)
operation = st.one_of(
    st.tuples(st.just("reserve"), run, st.integers(1, 10), crash, share),
    st.tuples(st.just("commit"), share, crash, share),
    st.tuples(
        st.just("lose"),
    ),
    st.tuples(
        st.just("reopen"),
    ),
)


@dataclass
class World:
    """A site's ledger, and what was really trained.

    Attributes:
        folder: Of the ledger.
        trained: Steps that were taken, or may have been when their process died.
        at_work: Reservations of processes that live.
    """

    folder: Path
    trained: list[Steps] = field(default_factory=list)
    at_work: list[Reservation] = field(default_factory=list)

    def spent(self) -> float:
        return read_ledger(self.folder).epsilon(DELTA)

    def truth(self) -> float:
        """At most: a running process may have taken all its steps."""
        return epsilon([*self.trained, *map(_steps, self.at_work)], DELTA)

    def reserve(self, run: str, steps: int, crash: str, share: float) -> None:
        before = self._files()
        given = reserve(self.folder, run=run, round=1, steps=steps, budget=BUDGETS[run])
        if given is None:
            return
        assert 1 <= given.steps <= steps
        assert self.spent() <= BUDGETS[run].target_epsilon * (1 + 1e-9)
        self._crash(crash, share, before)
        if crash == "none":  # else the caller was never told that it may train
            self.at_work.append(given)

    def commit(self, taken: float, crash: str, share: float) -> None:
        if not self.at_work:
            return
        reservation = self.at_work.pop()
        steps = round(taken * reservation.steps)
        self.trained.append(_steps(reservation, steps))
        before = self._files()
        commit(self.folder, reservation, steps)
        self._crash(crash, share, before)

    def lose(self) -> None:
        """All processes die; the number of their steps is unknown."""
        self.trained += map(_steps, self.at_work)
        self.at_work.clear()

    def reopen(self) -> None:
        open_ledger(self.folder, site="alba", num_patients=100)

    def _files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def _crash(self, how: str, share: float, before: dict[str, bytes]) -> None:
        """Put the disk as a kill leaves it: the last line torn at some byte, or whole but with the old head.json."""
        if how == "none":
            return
        path = self.folder / "ledger.jsonl"
        whole = path.read_bytes()
        lines = whole[: whole.rindex(b"\n", 0, -1) + 1]  # all but the last line
        path.write_bytes(whole[: len(lines) + int(share * (len(whole) - len(lines)))] if how == "torn" else whole)
        known = before["head.json"]
        if lines.count(b"\n") > before["ledger.jsonl"].count(b"\n"):  # a plan was added too, and was noted
            known = b'{"lines": %d}' % lines.count(b"\n")
        (self.folder / "head.json").write_bytes(known)


def _steps(reservation: Reservation, steps: int | None = None) -> Steps:
    count = reservation.steps if steps is None else steps
    return Steps(reservation.noise_multiplier, reservation.sample_rate, count)


@given(st.lists(operation, max_size=14))
def test_the_ledger_never_says_less_than_the_truth_and_never_more_than_the_target(
    operations: list[tuple[object, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name))
        world.reopen()
        for kind, *arguments in operations:
            before = world.spent()
            getattr(world, str(kind))(*arguments)
            after = world.spent()
            assert after >= world.truth() - 1e-9
            assert after <= max(one.target_epsilon for one in BUDGETS.values()) * (1 + 1e-9)
            assert after >= before - 1e-9 or kind == "commit"  # only steps reserved and not taken are given back


def test_a_kill_before_the_first_head_json_and_another_soon_after_lock_no_process_out(tmp_path: Path) -> None:
    folder, budget = tmp_path / "privacy", Budget(target_epsilon=4.0, target_delta=DELTA, sample_rate=1.0, steps=30)
    open_ledger(folder, site="alba", num_patients=200)
    (folder / "head.json").unlink()
    open_ledger(folder, site="alba", num_patients=200)
    head = (folder / "head.json").read_bytes()
    reserve(folder, run="study", round=1, steps=4, budget=budget)
    (folder / "head.json").write_bytes(head)
    reservation = reserve(folder, run="study", round=2, steps=4, budget=budget)
    assert reservation is not None
    commit(folder, reservation, 4)
    assert sum(one.steps for one in read_ledger(folder).history) == 8
