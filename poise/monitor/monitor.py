"""The monitor: takes part in anybody's training loop, measures, judges, and tells whoever wants to know."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from poise.monitor import samples as shown
from poise.monitor.judge import Judge, is_due
from poise.monitor.probes import SpectrumProbe, UpdateProbe, gradient_norms, gradient_variances, weight_norms
from poise.monitor.record import Values, as_record, flat
from poise.monitor.thresholds import Thresholds
from poise.monitor.verdict import FAILURES, VERDICTS, Verdict

CADENCE = {"gradients": 5, "updates": 5, "spectra": 5, "hidden": 10, "diversity": 5, "lipschitz": 25}
"""steps from one measurement of each probe to the next; 0: never"""
SHOWN, ON_LINES = 32, 16
"""samples of each kind that are shown to the networks, and lines on which steepness is measured"""

RATIOS = ("diversity", "neighbours", "coverage", "feature_diversity")
"""of distances between fakes to distances between real samples"""
LARGEST_RATIO = 1e6
"""from which on the real samples have no distances to speak of"""

Callback = Callable[[Verdict], object]
Tracker = Callable[..., object]


class Monitor:
    """Observes two networks in anybody's training loop: call ``observe`` once a step, or once in several.

    Args:
        generator, discriminator: the networks; layers are reported as ``G.…`` and ``D.…``. Either may be left out.
        every: steps from one measurement to the next: a number for all, or by probe, the others as in ``CADENCE``;
            0 turns a probe off. A probe that was due between two calls is made up for at the second.
        thresholds: of the rules.
        latents: what the generator is shown for its hidden outputs: the arguments of its forward pass, a batch of each;
            by default standard normal ones, for a generator that says ``latent_dim``.
        tracker: ``tracker(scalars, step=step)`` is called with what was observed, flat: ``accelerator.log``,
            ``wandb.log`` …

    Attributes:
        verdict: what is to be said of the training now.

    Raises:
        ValueError: an unknown probe, or a cadence below 0.

    Example:
        >>> monitor = poise.Monitor(generator=G, discriminator=D)
        >>> monitor.on("mode-collapse", lambda verdict: print(verdict.evidence))
        >>> for step in range(steps):
        ...     ...
        ...     monitor.observe(step, d_loss=d_loss, g_loss=g_loss, real_logits=real_logits, fake_logits=fake_logits)
        ...     if monitor.verdict.is_failing:
        ...         print(monitor.advice)
    """

    def __init__(
        self,
        *,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        every: int | Mapping[str, int] | None = None,
        thresholds: Thresholds | None = None,
        latents: Sequence[Tensor] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        networks = {"G": generator, "D": discriminator}
        self.networks = {player: _plain(network) for player, network in networks.items() if network is not None}
        self.every = _cadence(every)
        used = [steps for steps in self.every.values() if steps]
        self.judge = Judge(thresholds, min(used, default=1))
        self.tracker = tracker
        self.latents = None if latents is None else tuple(latents)
        self._spectra: dict[str, SpectrumProbe] = {}
        self._updates = {player: UpdateProbe() for player in self.networks}
        self._callbacks: dict[str, list[Callback]] = {}
        self._step: int | None = None

    @property
    def verdict(self) -> Verdict:
        return self.judge.verdict

    @verdict.setter
    def verdict(self, verdict: Verdict) -> None:
        self.judge.verdict = verdict

    @property
    def advice(self) -> str:
        """What to do about the verdict; "" while nothing is wrong."""
        return self.verdict.advice

    @property
    def timeline(self) -> list[Verdict]:
        """Each verdict that differs from the one before it, as it was first given."""
        return list(self.judge.timeline)

    def on(self, verdict: str, callback: Callback) -> None:
        """Have ``callback(verdict)`` called whenever the verdict becomes the one of this name.

        Args:
            verdict: one of ``VERDICTS``, "failing" for any failure, or "change" for every change.

        Raises:
            ValueError: another name.
        """
        known = (*VERDICTS, "failing", "change")
        if verdict not in known:
            raise ValueError(f"unknown verdict {verdict!r}; known: {', '.join(known)}")
        self._callbacks.setdefault(verdict, []).append(callback)

    def gradient_norms(self, player: str) -> dict[str, Tensor]:
        """Gradient norm by layer of player "G" or "D", as its ``.grad`` stands; scalars not read back."""
        return {f"{player}.{name}": norm for name, norm in gradient_norms(self.networks[player]).items()}

    def observe(
        self,
        step: int,
        gradients: Mapping[str, Tensor] | None = None,
        *,
        real_logits: Tensor | None = None,
        fake_logits: Tensor | None = None,
        real: Tensor | None = None,
        fake: Tensor | None = None,
        real_y: Tensor | None = None,
        fake_y: Tensor | None = None,
        **signals: Tensor | float,
    ) -> dict[str, Any]:
        """Take in one step and judge it. All but the step may be left out; what needs it is then not measured.

        Args:
            step: generator updates so far.
            gradients: gradient norms by layer, from ``gradient_norms``; without them ``.grad`` is read as it stands. A
                discriminator's also holds what the generator's backward pass left there, unless its weights were
                frozen for it.
            real_logits, fake_logits: D's, of any shape.
            real, fake: batches as D gets them, (n, …), or uint8 images.
            real_y, fake_y: their labels, where D takes them.
            **signals: named scalars: d_loss, g_loss, real_logit (a mean), …

        Returns:
            All that was observed, as floats: the signals; ``ranking``, ``saturation``, ``diversity``, ``lipschitz`` …;
            by layer ``weight_norm``, ``gradient_norm``, ``gradient_variance``, ``update_ratio``, ``sigma``,
            ``effective_sigma``, ``singular_values`` (lists of three), ``stable_rank``, ``hidden_variance``; and
            ``verdict``.
        """
        due = {probe for probe, every in self.every.items() if every and is_due(step, self._step, every)}
        self._step = step
        values: Values = {"": {**shown.logit_signals(real_logits, fake_logits), **signals}}
        if gradients is not None or "gradients" in due:
            values |= self._of_gradients(gradients, "gradients" in due)
        if "updates" in due:
            values["update_ratio"] = self._by_layer(lambda player, one: self._updates[player].measure(one, step))
        if "spectra" in due:
            values |= self._of_spectra()
        values["weight_norm"] = self._by_layer(lambda _, one: weight_norms(one))
        values[""] |= self._of_samples(real, fake, "diversity" in due)
        if due & {"hidden", "lipschitz"}:
            labels: list[tuple[Tensor, ...]] = [() if y is None else (y[:SHOWN],) for y in (real_y, fake_y)]
            self._show(values, due, real, fake, labels)
        record = as_record(values)
        for name in RATIOS:  # to real samples that are alike there is none; a sample that is lost shows elsewhere
            if not record.get(name, 0.0) < LARGEST_RATIO:
                del record[name]
        before = self.verdict
        record["verdict"] = self.judge.take(step, record).name
        if self.tracker is not None:
            self.tracker({name: value for name, value in flat("", record) if name != "verdict"}, step=step)
        if self.verdict.name != before.name:
            self._tell()
        return record

    def _of_gradients(self, given: Mapping[str, Tensor] | None, with_variance: bool) -> Values:
        norms = self._by_layer(lambda _, one: gradient_norms(one)) if given is None else dict(given)
        if not with_variance:
            return {"gradient_norm": norms}
        return {"gradient_norm": norms, "gradient_variance": self._by_layer(lambda _, one: gradient_variances(one))}

    def _of_spectra(self) -> Values:
        found: Values = {"sigma": {}, "singular_values": {}, "stable_rank": {}, "effective_sigma": {}}
        for player, network in self.networks.items():
            if player not in self._spectra:
                self._spectra[player] = SpectrumProbe(network)
            for measure, layers in self._spectra[player].measure(network).items():
                found[measure] |= {f"{player}.{name}": value for name, value in layers.items()}
        return {measure: layers for measure, layers in found.items() if layers}

    def _of_samples(self, real: Tensor | None, fake: Tensor | None, with_diversity: bool) -> dict[str, Tensor]:
        found = {}
        for name, batch in (("real", real), ("fake", fake)):
            if batch is not None and batch.is_floating_point() and batch.numel():
                found[f"largest_{name}"] = batch.detach().abs().amax()
        if with_diversity and real is not None and fake is not None and real.shape[1:] == fake.shape[1:]:
            found |= shown.diversity(_scaled(real[:64]), _scaled(fake[:64]))
        return found

    def _show(
        self, values: Values, due: set[str], real: Tensor | None, fake: Tensor | None, labels: list[tuple[Tensor, ...]]
    ) -> None:
        """Show samples to the networks. One that takes none of ours, or other arguments, is left in peace from then."""
        hidden: dict[str, Tensor] = {}
        try:
            generator, discriminator = self.networks.get("G"), self.networks.get("D")
            latents = self.latents
            if latents is None and generator is not None:
                latents = shown.latents_for(generator, SHOWN)
            if "hidden" in due and generator is not None and latents is not None:
                found, _ = shown.hidden_variances(generator, *latents)
                hidden |= {f"G.{name}": value for name, value in found.items()}
            if discriminator is not None and real is not None:
                batch = shown.as_input(real, discriminator, SHOWN)
                if "hidden" in due:
                    found, features = shown.hidden_variances(discriminator, batch, *labels[0])
                    hidden |= {f"D.{name}": value for name, value in found.items()}
                if fake is not None and fake.shape[1:] == real.shape[1:]:
                    others = shown.as_input(fake, discriminator, SHOWN)
                    if "hidden" in due and "diversity" in due and features is not None:
                        _, of_fakes = shown.hidden_variances(discriminator, others, *labels[1])
                        if of_fakes is not None:
                            measured = shown.diversity(features, of_fakes, SHOWN)
                            values[""] |= {f"feature_{k}": v for k, v in measured.items() if k == "diversity"}
                    if "lipschitz" in due:
                        own = [y[:ON_LINES] for y in labels[0]]
                        values[""]["lipschitz"] = shown.lipschitz(
                            discriminator, batch[:ON_LINES], others[:ON_LINES], *own
                        )
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            self.every |= {"hidden": 0, "lipschitz": 0}
            warnings.warn(
                f"the networks cannot be shown samples by the monitor, which goes on without: {error}", stacklevel=3
            )
        if hidden:
            values["hidden_variance"] = hidden

    def _by_layer(self, measure: Callable[[str, nn.Module], dict[str, Tensor]]) -> dict[str, Tensor]:
        return {
            f"{player}.{name}": value
            for player, network in self.networks.items()
            for name, value in measure(player, network).items()
        }

    def _tell(self) -> None:
        name = self.verdict.name
        for event in (name, "failing" if name in FAILURES else "", "change"):
            for callback in self._callbacks.get(event, ()):
                callback(self.verdict)

    def state_dict(self, with_vectors: bool = False) -> dict[str, Any]:
        """History, verdict and cadence, fit for JSON; load it after the networks' weights.

        Args:
            with_vectors: also what the probes of spectra and updates go on from, tensors to be kept by ``torch.save``:
                a resumed monitor then measures bit for bit what it would have measured.
        """
        state = {"judge": self.judge.state_dict(), "step": self._step}
        if not with_vectors:
            return state
        spectra = {player: probe.state_dict() for player, probe in self._spectra.items()}
        return {**state, "spectra": spectra, "updates": {p: probe.state_dict() for p, probe in self._updates.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the monitor whose ``state_dict`` it was. Load the networks' weights first."""
        self.judge.load_state_dict(state["judge"])
        self._step = state["step"]
        self._spectra = {player: SpectrumProbe(self.networks[player]) for player in state.get("spectra", ())}
        for player, probe in self._spectra.items():
            probe.load_state_dict(state["spectra"][player])
        for player, update in self._updates.items():
            if "updates" in state:
                update.load_state_dict(state["updates"][player])
            else:
                update.measure(self.networks[player], -1 if self._step is None else self._step)


def _plain(network: nn.Module) -> nn.Module:
    """The network itself, out of what compiles it or spreads it over processes."""
    for wrapper in ("_orig_mod", "module"):
        inner = network._modules.get(wrapper)
        if inner is not None and len(network._modules) == 1:
            network = inner
    return network


def _cadence(every: int | Mapping[str, int] | None) -> dict[str, int]:
    given = dict.fromkeys(CADENCE, every) if isinstance(every, int) else dict(every or {})
    for probe, steps in given.items():
        if probe not in CADENCE:
            raise ValueError(f"unknown probe {probe!r}; known: {', '.join(CADENCE)}")
        if steps < 0:
            raise ValueError(f"{probe} every {steps} steps; give at least 1, or 0 to turn it off")
    return {**CADENCE, **given}


def _scaled(batch: Tensor) -> Tensor:
    return batch.float() / 127.5 - 1 if batch.dtype == torch.uint8 else batch
