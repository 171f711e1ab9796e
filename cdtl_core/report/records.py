"""The report's records: privacy, egress, cohorts, and the run."""

from collections.abc import Mapping, Sequence

from cdtl_core.federation.journal import Journal
from cdtl_core.report.charts.figure import Figure, Sheet, Table
from cdtl_core.report.charts.styles import method_name
from cdtl_core.report.page import Block, Grid, Note, Section
from cdtl_core.results.card import ModelCard
from cdtl_core.results.spent import Spent
from cdtl_core.results.text import bytes_text, percent, plain, plural

__all__ = ["NO_PRIVACY", "cohort_tables", "crossed", "ledger_tables", "section_of", "settings_table"]

NO_PRIVACY = (
    "Trained WITHOUT differential privacy (dp.enabled = false): the updates can disclose information about single "
    "patients, and the coordinator sees each site's."
)


def ledger_tables(ledgers: Sequence[Spent], names: Sequence[str]) -> list[Block]:
    """Return a site's ledgers: the total spent, and by run; `names` names each ledger."""
    blocks: list[Block] = []
    rows = []
    for name, one in zip(names, ledgers, strict=True):
        for run in one.runs:
            steps = sum(entry.counted for entry in run.rounds)
            rows.append(
                (
                    name,
                    run.run,
                    f"{one.epsilon_rdp:.3f}",
                    f"{one.epsilon_prv:.3f}",
                    f"{run.target_epsilon:g}",
                    f"{run.target_delta:g}",
                    f"{steps} of {run.planned_steps}",
                    f"{run.noise_multiplier:.3f}",
                    f"{run.left_epsilon:.3f}",
                )
            )
    headers = ("ledger", "run", "epsilon (RDP)", "epsilon (PRV)", "budget", "delta", "steps", "noise", "left")
    if rows:
        blocks.append(Table("Spent of each training patient's privacy", headers, rows, numbers=2))
        blocks.append(Note("Budgets are held against RDP; PRV is a tighter bound on the same steps."))
    return blocks


def cohort_tables(cards: Mapping[str, ModelCard]) -> list[Block]:
    """Return a data card of each cohort: counts and settings, nothing about single patients."""
    sheets: list[Figure] = []
    for site, card in cards.items():
        cohort = card.cohort
        rows = [
            (what, *(str(getattr(counts, split)) for split in ("train", "val", "test")))
            for what, counts in (
                ("patients", cohort.patients),
                *([("exams", cohort.labelled)] if cohort.unit == "exam" else []),
                ("images", cohort.images),
                (f"{plural(cohort.unit)}, {card.positive}", cohort.positives),
            )
        ]
        counts = cohort.labelled.model_dump()
        shares = [getattr(cohort.positives, split) / counts[split] if counts[split] else None for split in counts]
        rows.append((f"share {card.positive}", *(percent(share) for share in shares)))
        table = Table(f"{site}, {card.modality}", ("", "training", "validation", "test"), rows)
        sheets.append(Sheet(table, _cohort_words(card)))
    return [Grid(sheets, wide=True)] if sheets else []


def _cohort_words(card: ModelCard) -> str:
    cohort = card.cohort
    parts = ["SYNTHETIC phantoms, no patients" if cohort.synthetic else "the hospital's own images"]
    parts.append("gray" if cohort.channels == 1 else "colour")
    parts.append(f"{cohort.bit_depth} bits, read as {card.image_size} pixels")
    parts.append(f"labels {', '.join(card.labels)}")
    if cohort.label_map:
        own = ", ".join(f"{local} as {task or 'left out'}" for local, task in cohort.label_map.items())
        parts.append(f"local labels: {own}")
    if cohort.checks_off:
        parts.append("checks switched off: " + ", ".join(f"{rule} ({why})" for rule, why in cohort.checks_off.items()))
    return "; ".join(parts) + "."


def crossed(journals: Sequence[Journal]) -> Table | None:
    """Return the bytes in each direction for each site and method, as the coordinator counted them."""
    rows = []
    for journal in journals:
        for site in journal.sites:
            figures = [one.sites[site] for one in journal.rounds if site in one.sites]
            ending = journal.ending.sites.get(site, {}) if journal.ending else {}
            whole = [*figures, ending]
            sent = sum(one.get("bytes_sent") or 0 for one in whole)
            received = sum(one.get("bytes_received") or 0 for one in whole)
            initial_weights = sum(one.get("initial_weights_bytes") or 0 for one in whole)
            cells = (bytes_text(sent), bytes_text(received - initial_weights), bytes_text(initial_weights))
            rows.append((site, method_name(journal.method), str(len(figures)), *cells))
    headers = ("site", "method", "rounds", "sent", "received", "initial weights received")
    return Table("Bytes of messages, all rounds and the end", headers, rows, numbers=2) if rows else None


def settings_table(changed: Mapping[str, object]) -> Table:
    """Return the settings that differ from the defaults."""
    rows = [
        (key, plain(value, 6).rstrip("0").rstrip(".") if isinstance(value, float) else str(value))
        for key, value in changed.items()
    ]
    return Table("Settings that differ from the defaults", ("setting", "value"), rows, numbers=9)


def section_of(id: str, blocks: Sequence[Block], why: str, lead: str = "") -> Section:
    """Return a section with blocks, or the reason why it is empty.

    Args:
        id: Its id.
        blocks: Its blocks.
        why: Reason for an empty section.
        lead: A sentence before the blocks.
    """
    return Section(id, blocks, "" if blocks else why, lead if blocks else "")
