"""APFL: each site uses a mixture of its own model and the global one, and learns the share."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call

from cdtl_core.federation.site import with_fresh_norms
from cdtl_core.models.weights import Weights, load_into
from cdtl_core.simulation.methods.ditto import personal_of
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, advance, begin, deployed, received
from cdtl_core.training.batches import on_device
from cdtl_core.training.device import hardware_of
from cdtl_core.training.inputs import drawn_inputs, entered, plain_inputs
from cdtl_core.training.objective import LOSSES, Mixture, mix_tensors
from cdtl_core.training.train import class_weights

__all__ = ["Apfl", "apfl", "slope_of", "step_share"]

_GLOBAL = {"method": "fedbn"}


@dataclass(frozen=True)
class Apfl:
    """The global model's run, the personal models', and each site's own share alpha."""

    shared: Track
    personal: Track
    alpha: Mapping[str, float]


def apfl(alpha: float = 0.5, rate: float = 0.1) -> Method[Apfl]:
    """Return APFL: w trains as in FedBN, v through the mixture ``alpha v + (1 - alpha) w``; alpha follows its gradient.

    Args:
        alpha: Every site's share at the start.
        rate: Learning rate of alpha, once at the start of each round; 0: constant.

    Source: Deng et al. 2020 (APFL), algorithm 1 with adaptive alpha. Differs: v trains against the received w, which is
    constant within a round, and alpha's gradient uses it once a round over one batch without dropout; norms belong to v
    and are not mixed; a site takes its steps twice a round, once for each model.
    """

    def start(federation: Federation) -> Apfl:
        shares = dict.fromkeys(federation.receivers, alpha)
        return Apfl(begin(federation.under(_GLOBAL)), begin(personal_of(federation)), shares)

    def round(federation: Federation, state: Apfl) -> Apfl:
        shared, own = federation.under(_GLOBAL), personal_of(federation)
        shares = {site: _next_share(federation, state, site, rate) for site in federation.receivers}
        personal = advance(
            own, state.personal, lambda site: Mixture(shares[site], received(shared, state.shared, site))
        )
        return Apfl(advance(shared, state.shared), personal, shares)

    return Method(start, round, _model_of)


def slope_of(
    loss: Callable[[Mapping[str, torch.Tensor]], torch.Tensor], alpha: float, own: Weights, other: Weights
) -> float:
    """Return the derivative of the mixture's loss, ``<own - other, grad loss(alpha own + (1 - alpha) other)>``.

    Args:
        loss: The loss as a function of the weights.
        alpha: Share of `own`.
        own: Tensor name to the own tensor.
        other: Tensor name to the other tensor.

    Source: Deng et al. 2020 (APFL), the gradient of the mixed loss by alpha.
    """
    share = torch.tensor(alpha, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(mix_tensors(share, own, other)), share)
    return float(slope)


def step_share(alpha: float, slope: float, rate: float) -> float:
    """Take one step along the negative slope, clipped to [0, 1].

    Args:
        alpha: The share.
        slope: Its gradient.
        rate: Learning rate.
    """
    return float(np.clip(alpha - rate * slope, 0.0, 1.0))


def _next_share(federation: Federation, state: Apfl, site: str, rate: float) -> float:
    own = received(personal_of(federation), state.personal, site)
    other = received(federation.under(_GLOBAL), state.shared, site)
    loss = _loss_at(federation, state, site, own)
    return step_share(state.alpha[site], slope_of(loss, state.alpha[site], own, other), rate)


def _loss_at(
    federation: Federation, state: Apfl, site: str, own: Weights
) -> Callable[[Mapping[str, torch.Tensor]], torch.Tensor]:
    """Return the loss of one batch of the site's training images for given weights, with the personal model's norms."""
    here, config = federation.sites[site], federation.config
    device = hardware_of(here.device).device
    received(personal_of(federation), state.personal, site)  # loads the personal norms into the model
    load_into(here.model, own)
    here.model.to(device).eval()
    fold = here.cohort.folds["train"]
    rng = np.random.default_rng([config.seed, zlib.crc32(site.encode()), state.shared.server.round, 1])
    rows = rng.choice(fold.num_units, size=min(config.train.batch_size, fold.num_units), replace=False)
    inputs = plain_inputs(here.model, fold, here.entry)
    images = on_device(drawn_inputs(inputs, fold, rows, config.train, rng), device)
    labels = torch.from_numpy(fold.labels[rows]).to(device)
    weight = class_weights(fold.labels, here.model.head.out_features).to(device)

    def loss(mixed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        placed = {name: value.to(device) for name, value in mixed.items()}
        logits = functional_call(entered(here.model, here.entry), placed, (images,))
        return LOSSES.find(config.train.loss)(logits, labels, weight if config.train.class_weighted else None)

    return loss


def _model_of(federation: Federation, state: Apfl, site: str) -> Weights:
    own = received(personal_of(federation), state.personal, site)
    other = received(federation.under(_GLOBAL), state.shared, site)
    mixed = mix_tensors(torch.tensor(state.alpha[site]), own, other)
    whole = deployed(personal_of(federation), state.personal, site)
    return with_fresh_norms(federation.sites[site], {**whole, **mixed})
