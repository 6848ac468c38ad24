"""Recipes: what to train, typed, checked, and written beside every run.

A recipe is YAML; any field can be overridden by its dotted name (``model.width=32``). Reading a file, a command line's
flags and a dictionary all go through ``Recipe.parse``, so there is one set of rules and one wording of errors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from poise.augmentation import AUGMENTATIONS
from poise.data import SOURCES
from poise.losses import LOSSES
from poise.metrics import METRICS, figure_names
from poise.metrics.generators import STEPS, held_out_options
from poise.models import MODELS
from poise.norms import NORMS
from poise.penalties import OF_WEIGHTS, PENALTIES
from poise.registry import Builders, Registry, nearest
from poise.sampling import LATENTS
from poise.training.optimizers import arguments
from poise.training.sections import Choice, Optimizer, RecipeError, Section, sentence, typed


class Recipe(Section):
    """One training, whole: data, networks, losses, optimizers, cadences, seed."""

    name: str = "custom"
    """what the recipe is called"""
    data: Choice = Choice(name="stacked-digits")
    """image source; options are the source's own (resolution in pixels)"""
    model: Choice = Choice(name="sngan-cnn", resolution=16)
    """architecture; options are its own (resolution in pixels, width in channels, latent_dim)"""
    d_norm: Choice = Choice(name="bssn")
    """weight normalization of the discriminator; options are the norm's own (scale, unitless)"""
    g_norm: Choice = Choice(name="none")
    """weight normalization of the generator"""
    latent: Choice = Choice(name="normal")
    """distribution of the latents, in training and of all samples; options are its own"""
    loss: str = "non-saturating"
    """adversarial loss: non-saturating, hinge, wasserstein, least-squares, minimax or relativistic"""
    penalties: list[Choice] = Field(default_factory=list)
    """penalties of the discriminator, a list: [{name: r1, gamma: 10, every: 16}]"""
    g_penalties: list[Choice] = Field(default_factory=list)
    """penalties of the generator's weights, orthonormal or off-diagonal: [{name: off-diagonal, weight: 1e-4}]"""
    augment: list[str] = Field(default_factory=list)
    """differentiable augmentation of what D sees, real and fake, for small sets: [color, translation, cutout]"""
    g_optimizer: Optimizer = Optimizer()
    """the generator's optimizer"""
    d_optimizer: Optimizer = Optimizer()
    """the discriminator's optimizer"""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """learning rates over the run: constant, or linear or cosine decay to 0 at the last step"""
    lr_warmup: NonNegativeInt = 0
    """steps over which learning rates rise from 0"""
    steps: PositiveInt = 10_000
    """generator updates in the whole run"""
    n_dis: PositiveInt = 1
    """discriminator updates per generator update"""
    batch_size: PositiveInt = 64
    """images per update: as many real ones as fakes for the discriminator"""
    g_batch_size: PositiveInt | None = None
    """fakes per update of the generator; None: batch_size"""
    accumulate: PositiveInt = 1
    """parts in which a batch goes through the networks, gradients summed; batch norm then sees a part at a time"""
    ema_half_life: Annotated[float, Field(gt=0)] = 500.0
    """steps after which a generator weight counts half in its exponential moving average"""
    ema_start: NonNegativeInt = 0
    """steps during which the average is the generator itself"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """seed of the initial weights, the order of the data and all latents"""
    device: str = "auto"
    """where to compute: auto (the first accelerator, else cpu), cpu, cuda, cuda:1, mps"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """arithmetic of the networks: fp32, bf16 autocast, or auto (bf16 where the processor has it)"""
    compile: bool | Literal["auto"] = "auto"
    """whether networks go through torch.compile: true, false, or auto (on CUDA; on a CPU it does not pay)"""
    log_every: PositiveInt = 50
    """steps between lines of metrics.jsonl"""
    sample_every: PositiveInt = 1_000
    """steps between sample grids"""
    checkpoint_every: PositiveInt = 1_000
    """steps between checkpoints"""
    keep_checkpoints: PositiveInt = 2
    """newest checkpoints kept; with 1 there is none to fall back on where a disk damages it"""
    keep_every: PositiveInt | None = None
    """steps between checkpoints that are kept for good; None: none is"""
    best_by: str = "auto"
    """measure by which the best checkpoint is kept: its name, auto (the judge's Fréchet distance) or none"""
    on_disk_full: Literal["stop", "continue"] = "stop"
    """when there is no room to write: stop with the last checkpoint, or continue without what could not be written"""
    monitor_every: PositiveInt = 10
    """steps between what the monitor is shown"""
    on_failure: Literal["warn", "stop", "rollback"] = "warn"
    """when a failing verdict lasts: warn and go on, stop, or rollback to a healthy checkpoint with what is advised"""
    patience: PositiveInt | None = None
    """steps that a failing verdict has to last to be acted on; None: a twentieth of the run, at least 5 observations"""
    max_rollbacks: PositiveInt = 3
    """times a run may roll back; then it goes on with warnings, and only what is not finite stops it"""
    evaluate_every: PositiveInt | None = 1_000
    """steps between judgements of the EMA generator, the last step's among them; None: it is not judged"""
    metrics: list[str] = Field(default_factory=lambda: ["fid", "is"])
    """what it is judged by, of poise.metrics.METRICS, where the data has no measures of its own"""
    evaluation_samples: Annotated[int, Field(ge=2)] = 10_000
    """images made for each judgement"""
    versions: dict[str, str] = Field(default_factory=dict)
    """what the run was made with; written into a run's recipe, without effect when read"""

    @model_validator(mode="after")
    def _names_are_known(self) -> Recipe:
        for field, registry in _REGISTRIES.items():
            choice = getattr(self, field)
            object.__setattr__(self, field, choice.checked(registry, field))
        _known("loss", self.loss, LOSSES)
        for index, kind in enumerate(self.augment):
            _known(f"augment.{index}", kind, AUGMENTATIONS)
            if kind in self.augment[:index]:
                raise RecipeError(f"augment.{index}: {kind!r} is there already; give each kind once")
        for index, metric in enumerate(self.metrics):
            _known(f"metrics.{index}", metric, METRICS)
            if metric in STEPS and not self.data.name.endswith("2d"):  # points are not judged by these
                try:
                    held_out_options(self.data.name, self.data.options)
                except ValueError as error:
                    raise RecipeError(f"metrics.{index}: {metric}: {error.args[0].partition(';')[0]}") from None
        if self.best_by not in ("auto", "none"):
            _known("best_by", self.best_by, Registry("measure", dict.fromkeys(figure_names())))
        for field in ("g_optimizer", "d_optimizer"):
            chosen = getattr(self, field)
            try:
                arguments(chosen.name, chosen.lr, chosen.betas, chosen.options)
            except ValueError as error:
                raise RecipeError(f"{field}: {error}") from None
        for field in ("batch_size", "g_batch_size"):
            size = getattr(self, field)
            if size is not None and size % self.accumulate:
                raise RecipeError(f"{field} is {size}; accumulate={self.accumulate} parts need a multiple of that")
        for field in ("penalties", "g_penalties"):
            choices = enumerate(getattr(self, field))
            checked = [choice.checked(PENALTIES, f"{field}.{index}") for index, choice in choices]
            object.__setattr__(self, field, checked)
        for index, choice in enumerate(self.g_penalties):
            if choice.name not in OF_WEIGHTS:
                raise RecipeError(
                    f"g_penalties.{index}: {choice.name!r} is of D's gradient; a generator's are of weights: "
                    + ", ".join(OF_WEIGHTS)
                )
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
        """A recipe from nested values, with dotted overrides (``{"model.width": "32"}``) laid over them.

        Raises:
            RecipeError: unknown field (with the nearest known one), wrong type or out of range.
        """
        merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
        # Names first: another choice drops the options of the one before, not those given beside it.
        for dotted, value in sorted((overrides or {}).items(), key=lambda item: _is_option(item[0])):
            _override(merged, dotted, value)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise RecipeError(sentence("", error, [name for name, _, _ in fields()])) from None

    @classmethod
    def load(cls, source: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """The shipped recipe of that name, or the recipe in that YAML file. Raises RecipeError as ``parse`` does."""
        try:
            values = copy.deepcopy(_values(_read(source)))
        except yaml.YAMLError as error:
            raise RecipeError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise RecipeError(f"{source} holds {type(values).__name__}; a recipe is a mapping of fields to values")
        return cls.parse(values, overrides)

    def to_yaml(self) -> str:
        """The recipe as YAML that ``load`` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


_REGISTRIES: dict[str, Builders[Any]] = {
    "data": SOURCES,
    "model": MODELS,
    "d_norm": NORMS,
    "g_norm": NORMS,
    "latent": LATENTS,
}


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with poise, by name."""
    folder = Path(str(resources.files("poise"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def fields() -> Iterator[tuple[str, Any, str]]:
    """Every field's dotted name, default and description, for ``--help``."""
    for name, info in Recipe.model_fields.items():
        default = info.get_default(call_default_factory=True)
        if isinstance(default, Choice):
            yield f"{name}.name", default.name, info.description or ""
            registry = _REGISTRIES[name]
            for option, parameter in registry.options(default.name).items():
                value = default.options.get(option, parameter.default)
                yield f"{name}.{option}", value, f"option of {registry.kind} {default.name}"
        elif isinstance(default, Section):
            for inner, inner_info in type(default).model_fields.items():
                yield f"{name}.{inner}", inner_info.default, f"{info.description}: {inner_info.description}"
        elif name != "versions":
            yield name, default, info.description or ""


def _read(source: str | Path) -> str:
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)].read_text(encoding="utf-8")
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe file {path} cannot be read: {error}") from None
    raise RecipeError(f"unknown recipe {str(source)!r}; {nearest(str(source), shipped)}")


@lru_cache(64)
def _values(text: str) -> Any:
    """What a YAML text says; a study reads a few texts for thousands of runs, and reading is what takes its time."""
    return yaml.safe_load(text)


def _known(field: str, name: str, registry: Registry[Any]) -> None:
    try:
        registry[name]
    except ValueError as error:
        raise RecipeError(f"{field}: {error}") from None


def _is_option(dotted: str) -> bool:
    return "." in dotted and not dotted.endswith(".name")


def _override(values: dict[str, Any], dotted: str, value: Any) -> None:
    head, _, rest = dotted.partition(".")
    section = Recipe.model_fields.get(head)
    if section is None or (rest and not isinstance(section.default, Section)):
        raise RecipeError(f"unknown field {dotted!r}; {nearest(dotted, [name for name, _, _ in fields()])}")
    if not isinstance(section.default, Section):
        values[head] = typed(value)
        return
    current = values.setdefault(head, section.default.model_dump(exclude_unset=True))
    if isinstance(section.default, Choice) and isinstance(current, str):
        current = values[head] = {"name": current}
    if not isinstance(current, dict):
        return  # left for the check of the whole, which says what a group looks like
    if isinstance(section.default, Choice):
        current.setdefault("name", section.default.name)
        if rest in ("", "name"):  # another entry has other options
            values[head] = current if current["name"] == value else {"name": value}
            return
    elif not rest:
        raise RecipeError(
            f"{head} is a group; set one of its fields: {nearest('', type(section.default).model_fields)}"
        )
    current[rest] = typed(value)
