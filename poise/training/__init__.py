"""Training: recipe → networks and data → loop → run folder."""

from poise.training.checkpoint import CheckpointError
from poise.training.disk import DiskFull
from poise.training.loop import TrainingFailed, train
from poise.training.recipe import Recipe, shipped_recipes
from poise.training.run import Run, RunError, load, run_folder
from poise.training.sections import RecipeError

__all__ = [
    "CheckpointError",
    "DiskFull",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "TrainingFailed",
    "load",
    "run_folder",
    "shipped_recipes",
    "train",
]
