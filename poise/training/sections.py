"""What a recipe is made of: groups of fields, things chosen by name with options, and the wording of their errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from poise.registry import Builders, nearest

Probability = Annotated[float, Field(ge=0, lt=1)]


class RecipeError(ValueError):
    """A recipe that cannot be used; the message is one line: the field, what was given, what is allowed."""

    is_of_all = True
    """where several processes train, every one raises it"""


class Section(BaseModel):
    """A group of fields; unknown ones are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Choice(Section):
    """Something chosen by name from a registry, its options beside the name: ``{name: sngan-cnn, width: 32}``."""

    model_config = ConfigDict(extra="allow")

    name: str
    """which one"""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def parse(cls, name: str, options: Mapping[str, Any]) -> Choice:
        """From a name and options as a command line gives them, all text."""
        return cls(**{"name": name, **{option: typed(value) for option, value in options.items()}})

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def checked(self, registry: Builders[Any], field: str) -> Choice:
        """This choice with its options known to the entry and of the types its signature asks for."""
        try:
            registry.check(self.name, self.options)
        except ValueError as error:
            raise RecipeError(f"{field}: {error}") from None
        typed = {}
        for option, value in self.options.items():
            annotation = registry.options(self.name)[option].annotation
            try:
                typed[option] = TypeAdapter(annotation).validate_python(value)
            except ValidationError as error:
                raise RecipeError(sentence(f"{field}.{option}", error)) from None
        return Choice(name=self.name, **typed)


class Optimizer(Section):
    """One network's optimizer."""

    name: str = "Adam"
    """any of torch.optim: Adam, AdamW, RMSprop, SGD …"""
    lr: Annotated[float, Field(gt=0)] = 2e-4
    """learning rate α, per step"""
    beta1: Probability = 0.5
    """decay of the mean of gradients, in [0, 1), for those that have it"""
    beta2: Probability = 0.999
    """decay of the mean of squared gradients, in [0, 1), for those that have it"""
    options: dict[str, Any] = {}
    """torch's further ones: {alpha: 0.9} for RMSprop, {momentum: 0.9} for SGD"""

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, self.beta2


def typed(value: Any) -> Any:
    """A command line's text for nothing, "None", a list, "[16, 32]", or a mapping, "{alpha: 0.9}", as what it says."""
    if isinstance(value, str) and (value in ("None", "null") or value[:1] + value[-1:] in ("[]", "{}")):
        return yaml.safe_load("null" if value == "None" else value)
    return value


def sentence(prefix: str, error: ValidationError, known: Iterable[str] = ()) -> str:
    """Pydantic's findings in one line: the field, what was given, what is allowed, and the nearest known name."""
    findings = []
    for finding in error.errors(include_url=False):
        field = ".".join([*filter(None, [prefix]), *map(str, finding["loc"])])
        if finding["type"] == "extra_forbidden":
            findings.append(f"unknown field {field!r}; {nearest(field, known)}")
        elif finding["type"] == "value_error":
            findings.append(str(finding["ctx"]["error"]))
        else:
            findings.append(f"{field}: given {finding['input']!r}; {finding['msg'][0].lower()}{finding['msg'][1:]}")
    return "; ".join(findings)
