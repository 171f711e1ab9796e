"""`cdtl privacy audit`: tests a run's privacy claim by an attack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from cdtl_core.metrics.metrics import Interval
    from cdtl_core.privacy.membership import Membership
    from cdtl_core.simulation.audit.canary_run import Subject
    from cdtl_core.simulation.audit.run import Audit

__all__ = ["audit"]


def audit(
    site_dir: Annotated[
        Path | None, typer.Argument(help="A site's folder; without it, synthetic patients are audited.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A run's .toml file; default: the audit's own terms.")] = None,
    canaries: Annotated[int, typer.Option(min=10, max=5000, help="Invented patients, each in or out.")] = 1500,
    epsilon: Annotated[float | None, typer.Option(help="Claim to audit, in place of dp.target_epsilon.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for canary selection. Noise is never seeded.")] = 0,
    broken: Annotated[
        Literal["none", "noise", "clip", "accountant", "draws"],
        typer.Option(help="Break this part on purpose; the audit must then end with code 8."),
    ] = "none",
    all_: Annotated[bool, typer.Option("--all", help="The intact mechanism and the four broken ones.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Save the result in SITE_DIR/audit.json, for model cards and the report.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train on synthetic patients and guess which were included; exit code 8 if that refutes the claim."""
    from tempfile import TemporaryDirectory

    from cdtl_core.cli.progress import showing_progress
    from cdtl_core.config.folders import SiteFolder
    from cdtl_core.system.durable import replace_json

    if all_ and broken != "none":
        raise typer.BadParameter("--all includes all broken forms: remove --broken")
    if keep and (site_dir is None or all_ or broken != "none"):
        raise typer.BadParameter("--keep needs SITE_DIR and the intact mechanism: remove --all and --broken")
    from cdtl_core.simulation.audit.faults import Fault
    from cdtl_core.simulation.audit.run import audit as audit_form
    from cdtl_core.simulation.audit.run import audit_membership

    forms = list(Fault) if all_ else [Fault(broken)]
    with TemporaryDirectory() as scratch, showing_progress():
        subject = _subject(site_dir, config, epsilon, Path(scratch))
        audits = [audit_form(subject, canaries=canaries, seed=seed, broken=form) for form in forms]
        attacks = [audit_membership(subject, seed=seed, private=private) for private in (True, False)]
    if keep and site_dir is not None:
        replace_json(SiteFolder(site_dir).audit, audits[0].as_dict())
    _print_json(audits, attacks) if json_ else _print(audits, attacks, in_table=all_)
    _judge(audits, expected=all_)


def _subject(site_dir: Path | None, config: Path | None, epsilon: float | None, scratch: Path) -> "Subject":
    from cdtl_core.config.folders import SiteFolder
    from cdtl_core.config.settings import load_run
    from cdtl_core.simulation.audit.canary_run import open_subject
    from cdtl_core.simulation.audit.run import audited_terms, phantom_config, phantom_site
    from cdtl_core.site.home import open_site
    from cdtl_core.system.shipped import find_config

    run = load_run(find_config(config)) if config else phantom_config()
    run = audited_terms(run, epsilon)
    if site_dir is None:
        return open_subject(phantom_site(scratch, run))
    return open_subject(open_site(site_dir, run), SiteFolder(site_dir).features)


def _judge(audits: "list[Audit]", *, expected: bool) -> None:
    """Raise an error that follows from the results.

    Raises:
        PrivacyError: The claim is refuted; or, with all forms, one does not end as it should.
    """
    from cdtl_core.errors import PrivacyError

    if expected:
        wrong = [one.broken.value for one in audits if not one.as_expected]
        if wrong:
            raise PrivacyError(
                f"the audit did not end as expected with broken = {', '.join(wrong)}: run it again with another "
                "--seed, and do not trust the ledger's figures while it stays so."
            )
    elif audits[0].refuted:
        purpose = audits[0].broken.value
        raise PrivacyError(
            f"the audit certifies epsilon {_worst(audits[0])} is claimed: "
            + (
                "do not train with this program until the cause is found."
                if purpose == "none"
                else f"as it should with {purpose} broken on purpose, leave out --broken to audit the real mechanism."
            )
        )


def _worst(one: "Audit") -> str:
    """Return the bound that refutes the claim, and the claim."""
    found = one.step if one.bound <= one.claim else one
    return f"{found.bound:.2f} where {found.claim:.2f}"


def _print(audits: "list[Audit]", attacks: "list[Membership]", *, in_table: bool) -> None:
    _print_table(audits) if in_table else _print_one(audits[0])
    for name, attack in zip(("with privacy", "same part without"), attacks, strict=True):
        print(
            f"Membership by loss, {name}: AUROC {_interval(attack.auroc)}, found at 1 % false alarms "
            f"{_interval(attack.tpr)}; {attack.members} members, {attack.others} others, chance is 0.5 and 0.01"
        )
    print(
        "An audit can refute a claim, but not prove it: a bound below the claim means only that it was not refuted. "
        f"{audits[0].guesses} guesses, all right, certify at most {audits[0].ceiling:.1f} (100 canaries: 3.5)."
    )


def _print_one(one: "Audit") -> None:
    print(f"Broken       {one.broken.value}")
    print(f"Claim        epsilon {one.claim:.2f} at delta {one.delta:g}, as the ledger counts it")
    print(f"Lower bound  epsilon {one.bound:.2f} with {100 * one.confidence:.0f} % confidence")
    print(f"Canaries     {one.canaries}, guessed {one.guesses}, right {one.correct}")
    print(f"One step     epsilon {one.step.bound:.2f} certified, {one.step.claim:.2f} claimed")
    print(
        f"             with a patient {one.step.found} of {one.step.repeats} releases are guessed right, without her "
        f"{one.step.repeats - one.step.alarms}"
    )
    print(f"Verdict      {_verdict(one)}")


def _print_table(audits: "list[Audit]") -> None:
    print(f"{'broken':<12}{'claim':>7}{'bound':>7}{'right/guessed':>15}{'one step':>10}  verdict")
    for one in audits:
        right = f"{one.correct}/{one.guesses}"
        expected = "as expected" if one.as_expected else "NOT as expected"
        verdict = f"{_verdict(one).split(':')[0]}, {expected}"
        print(f"{one.broken.value:<12}{one.claim:>7.2f}{one.bound:>7.2f}{right:>15}{one.step.bound:>10.2f}  {verdict}")
    print(f"One step: what {audits[0].step.repeats} releases of a step certify, of {audits[0].step.claim:.2f} claimed.")
    print(f"{audits[0].canaries} canaries, {100 * audits[0].confidence:.0f} % confidence, delta {audits[0].delta:g}")


def _verdict(one: "Audit") -> str:
    if one.refuted:
        return "claim refuted: messages give away more than is claimed"
    return "claim not refuted: this attack found nothing beyond it"


def _interval(value: "Interval") -> str:
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def _print_json(audits: "list[Audit]", attacks: "list[Membership]") -> None:
    import json

    membership = dict(zip(("private", "without"), [attack.as_dict() for attack in attacks], strict=True))
    print(json.dumps({"audits": [one.as_dict() for one in audits], "membership": membership}, indent=1))
