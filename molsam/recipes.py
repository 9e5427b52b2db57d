"""A recipe: the model, the optimizer, the training and the treatment of the data, as one value.

A recipe file is TOML that says where it differs from the defaults, and why:

    task = "esol"

    [optimizer]
    rho = 0.01   # the paper's best radius for SAM on ESOL is far below BBBP's .05
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from tomlkit.exceptions import TOMLKitError
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from .models import CoMPTConfig, GraphTransformerConfig
from .molecules import Charges, Salts
from .optim import (
    AESAM,
    ASAM,
    MSAM,
    RST,
    S2SAM,
    SAM,
    GraphSAM,
    LookSAM,
    RhoSchedule,
    SAMk,
    SAMOne,
    SharpnessAware,
    repeat_dropout_masks,
)
from .scaling import ScaleName
from .splits import are_fractions

HERE = Path(__file__).resolve().parent
FOLDER = next(p for p in (HERE / "_recipes", HERE.parent / "recipes", HERE) if p.is_dir())

Epochs = Annotated[str, Field(pattern=r"^([2-9]|[1-9][0-9]+) epochs$")]
ModelConfig = Annotated[CoMPTConfig | GraphTransformerConfig, Field(discriminator="name")]


class RecipeError(ValueError):
    """A recipe that cannot be read: says which file, which key, and what to try."""


class Section(BaseModel):
    """A frozen table of a recipe; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """How a table becomes molecules, features and parts."""

    smiles_column: str | None = Field(
        default=None, description="guessed from usual names if absent"
    )
    targets: tuple[str, ...] = Field(default=(), description="all numeric columns if empty")
    kind: Literal["regression", "binary", "multiclass"] | None = Field(
        default=None, description="of the targets, guessed from the labels if absent"
    )
    salts: Salts = Field(
        default="keep", description="all fragments, the largest, or none: such a row is unreadable"
    )
    charges: Charges = Field(
        default="keep", description="as written, or neutral where protons gained or lost make it so"
    )
    featurizer: Literal["canonical", "attentivefp", "weave", "pagtn", "compt"] = Field(
        default="compt", description="features of atoms and bonds, dgllife's"
    )
    descriptors: bool = Field(
        default=True, description="join RDKit's 2D descriptors at the readout"
    )
    descriptor_scale: ScaleName = Field(
        default="robust", description="robust: spreads from the median; ranked: their size and rank"
    )
    fingerprints: bool = Field(default=True, description="join Morgan counts at the readout")
    split: Literal[
        "random",
        "paper",
        "scaffold",
        "balanced_scaffold",
        "stratified",
        "k_fold",
        "column",
        "file",
    ] = Field(default="random", description="how rows are dealt to training, validation and test")
    split_seed: int | None = Field(default=None, ge=0, description="the run's seed if absent")
    split_column: str | None = Field(default=None, description="for split = 'column'")
    split_file: str | None = Field(default=None, description="JSON, for split = 'file'")
    folds: int = Field(default=5, ge=3, description="for split = 'k_fold'; run seed s takes fold s")
    fractions: tuple[float, float, float] = Field(
        default=(0.8, 0.1, 0.1),
        description="for training, validation and test; they sum to 1, the last may be 0",
    )

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if not are_fractions(self.fractions):
            raise ValueError(
                f"fractions {self.fractions} must sum to 1 and be positive; the last may be 0"
            )
        for kind in ("column", "file"):
            if (self.split == kind) != (getattr(self, f"split_{kind}") is not None):
                raise ValueError(f"split = {kind!r} and split_{kind} go together")
        return self

    def asked(self, process: bool, *, nearness: bool = False) -> dict[str, bool]:
        """What is read of molecules beside their graphs, by name: where a Gaussian `process` joins
        the models, all that it reads too; fingerprints for their `nearness` to training rows."""
        return {
            "descriptors": self.descriptors or process,
            "fingerprints": self.fingerprints or process or nearness,
        }


class OptimizerConfig(Section):
    """A base optimizer, and the sharpness-aware policy around it. Letters are the paper's."""

    name: Literal[
        "graphsam",
        "sam",
        "asam",
        "samk",
        "samone",
        "rst",
        "aesam",
        "looksam",
        "s2sam",
        "msam",
        "none",
    ] = Field(default="graphsam", description="none: the base alone")
    base: Literal["adamw", "adam"] = Field(
        default="adamw", description="what steps with the gradient at perturbed weights"
    )
    lr: float = Field(default=5e-4, gt=0, description="learning rate, the schedule's highest")
    weight_decay: float = Field(
        default=1e-2, ge=0, description="of the base; adamw takes it off the weights themselves"
    )
    rho: float = Field(default=0.002, ge=0, description="radius of the perturbation")
    beta: float = Field(default=0.9, ge=0, lt=1, description="graphsam: smoothing of the average")
    reuse_interval: PositiveInt | Literal["epoch", "never"] | Epochs = Field(
        default="epoch",
        description="graphsam, samk, looksam: steps from anchor to anchor; epoch, '2 epochs' and "
        "so on; never: the first step's anchor serves for good",
    )
    normalize_anchor: bool = Field(
        default=False, description="graphsam: the average starts from the anchor over its norm"
    )
    alpha: float = Field(default=0.7, ge=0, description="looksam: weight of the reused part")
    probability: float = Field(default=0.5, ge=0, le=1, description="rst: of a second gradient")
    lambda_1: float = Field(default=-1.0, description="aesam: threshold at the end")
    lambda_2: float = Field(default=1.0, description="aesam: threshold at the start")
    delta: float = Field(default=0.9, ge=0, lt=1, description="aesam: smoothing of statistics")
    gamma: float = Field(default=1.0, gt=0, le=1, description="decay of rho")
    rho_epochs: int = Field(default=1, ge=1, description="lambda: epochs between decays of rho")
    start: NonNegativeInt | Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="first step with a perturbation; with a point, a share of training"
    )
    masks: Literal["fresh", "same"] = Field(
        default="fresh", description="dropout masks of the second pass of a step"
    )
    diagnose_every: PositiveInt | None = Field(
        default=None, description="steps from look to look at stand-in and true gradient"
    )

    @model_validator(mode="after")
    def _check(self) -> OptimizerConfig:
        if self.name == "none" and self.diagnose_every is not None:
            raise ValueError(
                "diagnose_every needs a policy to look at; name = 'sam' with rho = 0 trains like "
                "the base alone"
            )
        return self

    @property
    def anchor_epochs(self) -> int | None:
        """Of how many epochs one begins with an anchor step; None where epochs have no say."""
        _, options = POLICIES.get(self.name, (None, ()))
        interval = self.reuse_interval
        if "reuse_interval" not in options or isinstance(interval, int) or interval == "never":
            return None
        return 1 if interval == "epoch" else int(interval.split()[0])

    def start_epoch(self, optimizer: Optimizer, epoch: int) -> None:
        """Ask for the anchor of `epoch`, counted from 0, where it begins with one."""
        every = self.anchor_epochs
        if isinstance(optimizer, SAMk) and every is not None and epoch % every == 0:
            optimizer.request_anchor()

    def rho_schedule(self, optimizer: Optimizer) -> RhoSchedule | None:
        """Eq. 4 of the paper for `optimizer`; None for a base optimizer, which has no radius."""
        if self.name == "none":
            return None
        return RhoSchedule(optimizer, gamma=self.gamma, epochs=self.rho_epochs)

    def build(self, model: nn.Module, *, steps: int, seed: int) -> Optimizer:
        """The optimizer over all parameters of `model`.

        steps -> the length of training, for what is set as a share of it.
        seed -> of what a policy draws.
        """
        kind = {"adam": Adam, "adamw": AdamW}[self.base]
        base = kind(model.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        if self.name == "none":
            return base
        policy, names = POLICIES[self.name]
        options = self.model_dump() | {"steps": steps, "seed": seed}
        if isinstance(self.reuse_interval, str):
            options["reuse_interval"] = None
        start = self.start if isinstance(self.start, int) else round(self.start * steps)
        chosen = {name: options[name] for name in names}
        optimizer = policy(base, rho=self.rho, start=start, **chosen)
        if self.masks == "same":
            repeat_dropout_masks(optimizer)
        return optimizer


# Each policy with the options it takes beside rho and start.
POLICIES: dict[str, tuple[Callable[..., SharpnessAware], tuple[str, ...]]] = {
    "graphsam": (GraphSAM, ("beta", "reuse_interval", "normalize_anchor")),
    "sam": (SAM, ()),
    "asam": (ASAM, ()),
    "samk": (SAMk, ("reuse_interval",)),
    "samone": (SAMOne, ()),
    "rst": (RST, ("probability", "seed")),
    "aesam": (AESAM, ("steps", "lambda_1", "lambda_2", "delta")),
    "looksam": (LookSAM, ("reuse_interval", "alpha")),
    "s2sam": (S2SAM, ()),
    "msam": (MSAM, ()),
}


class TrainingConfig(Section):
    """How long, how fast, and what counts as better."""

    epochs: int = Field(default=40, ge=1, description="times that training sees each row")
    batch_size: int = Field(default=32, ge=1, description="molecules a step, at most")
    max_pairs: int = Field(
        default=1_000_000, ge=1, description="padded atom pairs a batch may hold"
    )
    schedule: Literal["constant", "noam", "one_cycle", "cosine"] = Field(
        default="one_cycle", description="of the learning rate, over the steps of training"
    )
    warmup: float = Field(default=0.3, ge=0, le=1, description="share of training that warms up")
    clip_norm: float | None = Field(
        default=None, gt=0, description="longer gradients are cut to this norm"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after so many epochs without a better validation score, and keep the "
        "weights of the best; if absent, the weights after the last epoch are kept",
    )
    loss: Literal["mse", "mae", "huber", "bce", "cross_entropy"] | None = Field(
        default=None, description="mse, bce or cross_entropy by the kind of the targets if absent"
    )
    class_weights: bool = Field(
        default=False, description="weight positives by negatives / positives"
    )
    metric: str | None = Field(
        default=None,
        description="score of the validation rows, by which patience stops and tuning chooses; by "
        "the kind of the targets if absent",
    )
    average: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of a running average of the weights, which is then what is validated "
        "and kept; .99 looks back a hundred steps, 0 is the weights themselves",
    )
    members: int = Field(default=1, ge=1, description="models in the ensemble")
    gaussian_process: bool = Field(
        default=False,
        description="one on Morgan counts and descriptors joins the ensemble, six tenths of each "
        "prediction; beyond 8,192 training rows there is none",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16: passes under autocast, weights in float32"
    )
    compile: bool = Field(
        default=False, description="train through torch.compile; for GPUs and long runs"
    )
    sharpness_every: PositiveInt | None = Field(
        default=None, description="epochs from look to look at the top Hessian eigenvalue"
    )


class Recipe(Section):
    """Model, optimizer, training and data choices of one task.

    `Recipe.load("esol")` reads a shipped recipe or a TOML file; `recipe.save(path)` writes every
    field, so that `Recipe.load(path) == recipe`; `recipe.change({"optimizer.rho": 0.02})` gives a
    new one.
    """

    task: str | None = Field(default=None, description="data set this recipe was made for")
    model: ModelConfig = Field(
        default=CoMPTConfig(),
        description="settings of a CoMPT or of a GraphTransformer, by their name",
    )
    optimizer: OptimizerConfig = Field(
        default=OptimizerConfig(), description="base optimizer, and the policy around it"
    )
    training: TrainingConfig = Field(
        default=TrainingConfig(), description="how long, how fast, and what counts as better"
    )
    data: DataConfig = Field(
        default=DataConfig(), description="how a table becomes molecules, features and parts"
    )

    @classmethod
    def load(cls, name: str | Path) -> Recipe:
        """A shipped recipe by name, or any TOML file by path."""
        path = find(name)
        try:
            tables = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path} is not UTF-8 text; save it as UTF-8") from error
        except TOMLKitError as error:
            raise RecipeError(f"{path} is not valid TOML: {error}") from error
        return cls.parse(tables, where=str(path))

    @classmethod
    def parse(cls, tables: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """Validate nested tables; `where` names them in errors."""
        tables = dict(tables)
        if isinstance(tables.get("model"), Mapping):
            tables["model"] = {"name": "compt", **tables["model"]}
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            raise RecipeError(f"{where}: {_explain(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write every field as TOML."""
        Path(path).write_text(self.to_toml(), encoding="utf-8")

    def to_toml(self) -> str:
        """Every field that has a value, as TOML."""
        return tomlkit.dumps(self.model_dump(exclude_none=True, mode="json"))

    def change(self, fields: Mapping[str, Any]) -> Recipe:
        """A recipe with other values: keys are `section.field`, or `field` where one has it.

        A change of `model.name` keeps the fields that both models have.
        """
        tables = self.model_dump()
        for key, value in sorted(fields.items(), key=lambda item: item[0] != "model.name"):
            *section, field = full_key(key).split(".")
            table = tables[section[0]] if section else tables
            table[field] = value
            if (section, field) == (["model"], "name"):
                tables["model"] = _shared_fields(table)
        return Recipe.parse(tables)


SECTIONS: dict[str, type[BaseModel]] = {
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
    "data": DataConfig,
}
MODEL_CONFIGS: dict[str, type[BaseModel]] = {
    "compt": CoMPTConfig,
    "graph_transformer": GraphTransformerConfig,
}


def names() -> list[str]:
    """The shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name: str | Path) -> Path:
    """The file of a shipped recipe, or the file itself."""
    shipped = FOLDER / f"{name}.toml"
    if os.sep not in str(name) and shipped.is_file():
        return shipped
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix == ".toml":
        raise RecipeError(f"no recipe file {path}")
    near = _near(str(name), names())
    raise RecipeError(f"no recipe {name!r}{near}; there are {', '.join(names())}, or name a .toml")


def parse_value(text: str) -> Any:
    """A value as TOML writes it (`0.1`, `true`, `[0.8, 0.1, 0.1]`), else the text itself."""
    try:
        return tomlkit.parse(f"value = {text}").unwrap()["value"]
    except TOMLKitError:
        return text


def _fields() -> dict[str, set[str]]:
    known = {name: set(section.model_fields) for name, section in SECTIONS.items()}
    known["model"] = set().union(*(c.model_fields for c in MODEL_CONFIGS.values()))
    return known


def full_key(key: str) -> str:
    """`rho` -> `optimizer.rho`; a key with a section, or of no section, as it is.

    Raises:
        RecipeError: no field, or several, are called so.
    """
    known = _fields()
    every = [f"{s}.{f}" for s, names_ in known.items() for f in sorted(names_)] + ["task"]
    homes = [full for full in every if full == key or full.split(".")[-1] == key]
    if len(homes) == 1:
        return homes[0]
    if homes:
        raise RecipeError(f"{key!r} is ambiguous: say one of {', '.join(homes)}")
    shorts = [full.split(".")[-1] for full in every]
    raise RecipeError(f"a recipe has no field {key!r}{_near(key, every + shorts)}")


def _shared_fields(table: dict[str, Any]) -> dict[str, Any]:
    kind = MODEL_CONFIGS.get(str(table["name"]))
    shared = kind.model_fields if kind else ["name"]  # validation refuses an unknown name
    return {key: value for key, value in table.items() if key in shared}


def _explain(error: ValidationError) -> str:
    """The first fault as one sentence."""
    fault = error.errors()[0]
    if fault["type"] == "union_tag_invalid":
        name = fault["input"]["name"]
        near = _near(str(name), MODEL_CONFIGS)
        return f"no model {name!r}{near}; there are {', '.join(MODEL_CONFIGS)}"
    place = [str(part) for part in fault["loc"]]
    table = SECTIONS.get(place[0], Recipe)
    if place[0] == "model" and len(place) > 1:
        table = MODEL_CONFIGS[place.pop(1)]
    # Beyond section and field a number is an item; a text names a branch of a union.
    key = ".".join(part for i, part in enumerate(place) if i < 2 or part.isdigit())
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}{_near(place[-1], table.model_fields)}"
    message = fault["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    got = "" if fault["type"] == "value_error" else f", not {fault['input']!r}"
    return f"{key}: {message[0].lower()}{message[1:]}{got}"


def _near(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
