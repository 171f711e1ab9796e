"""Checks of a run before it trains: its network, and its settings against the contracts of its sites.

`cdtl simulate` makes them before and after it reads the images, `cdtl server run` before it writes a request. The
coordinator repeats those of the settings when the sites have introduced themselves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cdtl_core.config import RunConfig
from cdtl_core.errors import ConfigError, PrivacyError
from cdtl_core.federation.contract import ModalityContract, check_contract
from cdtl_core.federation.round import robust_notes, round_matrices
from cdtl_core.federation.state import Member, start
from cdtl_core.models.model import frozen_stages, parts_of, shared_classifier
from cdtl_core.models.stages import check_division
from cdtl_core.models.weights import Weights, load_into
from cdtl_core.privacy.mechanism import check_terms
from cdtl_core.training.inputs import entry_of

__all__ = ["Candidate", "check_network", "check_plan", "check_run"]


@dataclass(frozen=True)
class Candidate:
    """A site that is to take part in a run.

    Attributes:
        member: Its training patients may be an estimate.
        contract: Its modality contract.
        private: Whether it would train with differential privacy; None: only the site knows.
    """

    member: Member
    contract: ModalityContract
    private: bool | None = None


def check_network(config: RunConfig, initial_weights: Weights) -> None:
    """Refuse a network that cannot be trained with a run's settings.

    Raises:
        ModelError: The weights do not fit it, it has fewer stages than the settings name, or `train.views` is set and
            it cannot be run from its frozen stages on.
        ConfigError: It has fewer stages than `dp.stages`.
        PrivacyError: It cannot be trained with differential privacy, and `dp.enabled` asks for it.
    """
    size, entry = config.image.size, entry_of(config, None)
    model = shared_classifier(config.model, len(config.task.labels), size, frozen_norms=config.dp.enabled)
    load_into(model, initial_weights)
    parts_of(model, freeze=frozen_stages(model, config), share_head=config.share.head)
    if entry is not None and entry.stages is not None:
        check_division(model.backbone, entry.stages, size)
    if config.dp.enabled:
        from cdtl_core.privacy.clipping import check_private  # imports Opacus, which takes seconds

        check_private(model)


def check_run(candidates: Iterable[Candidate], config: RunConfig, initial_weights_hash: str) -> list[str]:
    """Refuse a run that does not fit its sites.

    Args:
        candidates: The sites.
        config: The run's settings.
        initial_weights_hash: SHA-256 of its initial weights.

    Returns:
        Sentences about settings that will not apply to some site.

    Raises:
        FederationError: A site's contract does not fit, for example its positive label.
        PrivacyError: A site cannot train with the run's differential privacy.
        ConfigError: The settings need more sites, or fit no round of a run of these.
    """
    found, notes = list(candidates), list[str]()
    _check_counts([one.member for one in found], config)
    for one in found:
        check_contract(one.contract, config, initial_weights_hash)
        notes += [*_labels_note(one.contract, config), *_privacy_note(one, config)]
    return [*notes, *check_plan([one.member for one in found], config)]


def check_plan(members: Iterable[Member], config: RunConfig) -> list[str]:
    """Refuse settings that fit no round of a run of these members; return what will not apply.

    Raises:
        FederationError: There is no member.
        ConfigError: No round would blend, a blend matrix is wrong, or no modality has enough sites.
    """
    state = start(members, config)
    round_matrices(state, config)
    return robust_notes(state, config)


def _check_counts(members: Sequence[Member], config: RunConfig) -> None:
    """Refuse settings that need more sites in each round than the run has.

    Raises:
        ConfigError: A modality, or the run, has too few sites.
    """
    if fault := config.federation.too_few(member.modality for member in members):
        raise ConfigError(fault)


def _labels_note(contract: ModalityContract, config: RunConfig) -> list[str]:
    if contract.labels == config.task.labels:
        return []
    return [
        f"{contract.site} predicts {', '.join(contract.labels)} and the run {', '.join(config.task.labels)}: its head "
        "stays at the site and is not trained by the others."
    ]


def _privacy_note(one: Candidate, config: RunConfig) -> list[str]:
    """Refuse a site that cannot train with privacy; a sentence if it may be exempt.

    Raises:
        PrivacyError: It must train with privacy and has too few patients, has too many for `dp.target_delta`, or
            publishes pixel statistics.
    """
    if not config.dp.enabled or one.private is False:
        return []
    try:
        check_terms(config.dp, one.member.num_patients)
        if one.contract.statistics is not None:
            raise PrivacyError("its contract publishes pixel statistics, which are not private: enrol without them.")
    except PrivacyError as error:
        if one.private or config.dp.required:
            raise PrivacyError(f"site {one.member.site}: {error}") from None
        return [f"{one.member.site} can take part only if it is exempt (privacy.exempt in its site.toml): {error}"]
    return []
