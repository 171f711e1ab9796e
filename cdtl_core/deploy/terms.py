"""What a run asks of a site, in values and sentences: for the person who approves it, on a terminal and at the desk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.schema import Flat
from cdtl_core.config.settings import flatten, unflatten
from cdtl_core.deploy.approvals import lock_fault, own_egress
from cdtl_core.deploy.request import ApprovalRequest, check_request, why_unchecked
from cdtl_core.errors import PrivacyError
from cdtl_core.federation.egress import EgressManifest
from cdtl_core.results.spent import epsilons_of_site
from cdtl_core.system.foreign import visible

__all__ = ["Terms", "budget_text", "changed_settings", "examine", "limits_text", "privacy_text"]


@dataclass(frozen=True)
class Terms:
    """A request that is in order at this site.

    Attributes:
        request: The request.
        config: Its settings.
        same_code: Whether the code is byte for byte that of the cdtl (and plugins) installed here.
        egress: What may leave this site.
        unchecked: Why the initial weights are not compared with ones of this site, in words; empty: they are.
    """

    request: ApprovalRequest
    config: RunConfig
    same_code: bool
    egress: EgressManifest
    unchecked: str

    @property
    def sentences(self) -> tuple[str, ...]:
        """How initial weights and code compare with those of this site."""
        what = ", ".join(("cdtl", *map(visible, self.config.plugins)))
        how = "the same as" if self.same_code else "NOT that of"
        code = f"The code is {how} the {what} installed here, byte for byte."
        weights = f"The initial weights are NOT compared with ones of this site: {self.unchecked}."
        return (weights, code) if self.unchecked else (code,)


def examine(request: ApprovalRequest, own: SiteConfig) -> Terms:
    """Check a request before a person reads it: that it is what it shows, and that this site can take part.

    Args:
        request: The coordinator's request.
        own: The site's settings.

    Raises:
        ConfigError: The settings are not those of a run, or the site lacks what the run needs.
        PrivacyError: The request shows another run than it is, or contradicts a lock of the site.
    """
    from cdtl_core.deploy.bundle import bundle_sha256, check_carried  # torch, which a desk loads for this only

    config = unflatten(request.settings)
    check_carried(config, [own.modality])
    check_request(request)
    if fault := lock_fault(request.settings, own.lock):
        raise PrivacyError(fault)
    same = bundle_sha256(packages=config.plugins) == request.bundle_sha256
    return Terms(request, config, same, own_egress(config, own), why_unchecked(config))


def changed_settings(settings: Flat) -> Mapping[str, object]:
    """Return the settings of a run that differ from the defaults, or that this version does not have."""
    defaults = flatten(RunConfig())
    return {key: value for key, value in settings.items() if value != defaults.get(key)}


def limits_text(config: RunConfig) -> str:
    """Describe how much of a run is approved."""
    limits = config.limits
    return (
        f"{limits.runs} run(s) of {config.federation.rounds} rounds, {limits.evaluations} final evaluation(s) each; "
        f"initial weights (SHA-256) {limits.initial_weights_hash or 'NONE NAMED'}"
    )


def privacy_text(config: RunConfig, own: SiteConfig | None) -> str:
    """Describe the privacy that a run promises each patient of a site; None: of any site."""
    if not config.dp.enabled:
        return "NONE: the updates can disclose information about single patients."
    if own is not None and own.privacy.exempt:
        must = "required by the run, so it will refuse this site" if config.dp.required else "not required by the run"
        return f"NONE here: this site is exempt (site.toml, privacy.exempt); {must}."
    epsilon = _target(config, own)
    kept = f" (this site's own limit; the run asks for {config.dp.target_epsilon:g})"
    capped = own is not None and own.privacy.target_epsilon == epsilon
    return (
        f"epsilon {epsilon:g}{kept if capped else ''} at delta {config.dp.target_delta:g} for each training patient, "
        f"over all that this site ever trained with privacy, this run included; "
        f"{config.federation.rounds * config.train.steps} steps, clip {config.dp.max_grad_norm:g}. No count, loss, "
        "metric or choice leaves. See cdtl privacy ledger."
    )


def budget_text(home: Path, config: RunConfig, own: SiteConfig) -> str:
    """Describe a site's privacy budget before and after a run; empty for a run without privacy.

    Args:
        home: The site's folder.
        config: The run.
        own: The site's settings.

    Raises:
        PrivacyError: The ledger is damaged.
    """
    if not config.dp.enabled or own.privacy.exempt:
        return ""
    spent, target = max((epsilon for epsilon, _ in epsilons_of_site(home)), default=0.0), _target(config, own)
    if spent >= target:
        return f"Epsilon {spent:.2f} is spent, and this run allows {target:g} in all: this site cannot train one step."
    return f"Epsilon {spent:.2f} is spent before this run, and at most {target:g} is spent after it."


def _target(config: RunConfig, own: SiteConfig | None) -> float:
    cap = own.privacy.target_epsilon if own is not None else None
    return min(config.dp.target_epsilon, cap or config.dp.target_epsilon)
