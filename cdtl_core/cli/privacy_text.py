"""Privacy on the terminal: plans, spending, and their meaning."""

import time
from collections.abc import Iterable

import typer
from rich import box
from rich.table import Table

from cdtl_core.cli.screen import open_console
from cdtl_core.results.outlook import MARGINAL, WORKABLE, Judgement, Outlook, Part
from cdtl_core.results.spent import RoundSpent, RunSpent, Spent, meaning_of, not_covered
from cdtl_core.system.foreign import visible

__all__ = ["print_outlook", "print_spent"]

_VERDICTS: dict[Judgement, str] = {
    "workable": "Workable: the signal of all steps together exceeds the noise.",
    "marginal": "Marginal: expect lower accuracy; more patients, fewer parameters or a larger epsilon would help.",
    "hopeless": "Hopeless: the noise exceeds the signal; train fewer parameters, or find more patients.",
}


def print_spent(found: Iterable[Spent]) -> None:
    """Print each ledger of a site."""
    for number, one in enumerate(found):
        typer.echo("\n" * bool(number) + _headline(one))
        for run in one.runs:
            _print_run(run)
        for sentence in not_covered(one):
            typer.echo(f"NOT COVERED: {sentence}")
        if one.target_delta is not None:
            typer.echo(meaning_of(one))


def print_outlook(found: Outlook) -> None:
    """Print the cost of a run at one site, and alternatives."""
    centre = f" and {found.centre_steps} for the centre of the features" if found.centre_steps else ""
    typer.echo(f"For {found.patients} training patients, epsilon {found.target_epsilon:g} at {found.target_delta:g}:")
    typer.echo(f"  steps             {found.steps} ({found.rounds} rounds of {found.steps_a_round}{centre})")
    typer.echo(f"  sample rate q     {found.sample_rate:.4g}, {found.expected_patients:g} patients expected in a step")
    typer.echo(f"  noise sigma       {found.noise_multiplier:.4f}, times the clip C = {found.max_grad_norm:g}")
    typer.echo(f"  epsilon at last   {found.epsilon_rdp:.3f} by RDP (held against the target)")
    typer.echo(f"                    {found.epsilon_prv:.3f} by PRV (tighter)")
    typer.echo(f"Trained: {found.chosen.name}, {_times(found.chosen)}.")
    typer.echo(f"{_VERDICTS[found.chosen.judgement]}\n")
    table = Table("trained", "parameters", "noise/signal", "over all steps", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for part in found.alternatives:
        cells = (f"{part.noise_to_signal:.2f}", f"{part.averaged:.3f}", part.judgement)
        table.add_row(part.name, f"{part.parameters}", *cells)
    open_console().print(table)
    typer.echo(
        f"Workable up to {WORKABLE:.2f} over all steps, marginal up to {MARGINAL:.2f}; docs/privacy.md explains these "
        "limits."
    )


def _times(part: Part) -> str:
    return (
        f"{part.parameters} parameters: the noise is {part.noise_to_signal:.2f} times the longest signal in a step, "
        f"{part.averaged:.3f} times over all steps"
    )


def _headline(one: Spent) -> str:
    day = time.strftime("%Y-%m-%d", time.gmtime(one.opened))
    public = f"{one.num_patients} training patients treated as public"
    first = f"Ledger {visible(one.ledger[:8])} of {visible(one.site)} in {one.folder}, opened {day}, {public}."
    if one.target_delta is None:
        return f"{first}\nNothing is spent."
    return (
        f"{first}\nSpent: epsilon {one.epsilon_rdp:.3f} by RDP (held against the targets), {one.epsilon_prv:.3f} by "
        f"PRV (tighter), at delta {one.target_delta:g}."
    )


def _print_run(run: RunSpent) -> None:
    left = f"epsilon {run.left_epsilon:.3f}, or {run.left_steps} steps of its noise"
    typer.echo(
        f"Run {visible(run.run)}: target {run.target_epsilon:g} at delta {run.target_delta:g}; "
        f"left: {left if run.left_steps else 'not one step'}."
    )
    for (noise, rate, faulty), rounds in _grouped(run.rounds).items():
        steps, numbers = sum(one.counted for one in rounds), sorted({one.round for one in rounds})
        note = " (faulty mechanism, not counted)" if faulty else ""
        typer.echo(f"  rounds {_ranges(numbers)}: {steps} steps, noise {noise:.4f}, sample rate {rate:.4g}{note}")
    for one in run.rounds:
        if one.taken is None and not one.faulty:
            typer.echo(f"  round {one.round}: {one.reserved} steps reserved and never committed; all count")


def _grouped(rounds: Iterable[RoundSpent]) -> dict[tuple[float, float, bool], list[RoundSpent]]:
    """Group rounds by noise, sample rate and mechanism."""
    found: dict[tuple[float, float, bool], list[RoundSpent]] = {}
    for one in rounds:
        found.setdefault((one.noise_multiplier, one.sample_rate, one.faulty), []).append(one)
    return found


def _ranges(numbers: list[int]) -> str:
    """Return ``1-3, 5`` for 1, 2, 3, 5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in spans)
