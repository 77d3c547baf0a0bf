"""The fields of a pipeline beside its models and stages: the dataset and the budget."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from pipelines.spec.strict import Number, PythonFunction, Strict


def _named_or_counted(value: object) -> str:
    return "<named>" if isinstance(value, str) else "<counted>"


Rows = Annotated[
    Annotated[str, Tag("<named>")] | Annotated[PositiveInt, Number, Tag("<counted>")],
    Discriminator(_named_or_counted),
]
"""The rows of a split: the name of a file or of a hub split, or how many of a pool."""


class DatasetSpec(Strict):
    """The source of the examples: a file or hub split for each split, or a pool from which both are drawn."""

    search: Rows = Field(
        description="JSON, JSONL, CSV or Parquet file beside the spec, or a hub split such as train[:200]; "
        "with pool: how many rows",
        examples=["search.jsonl"],
    )
    test: Rows = Field(description="the same for the sealed test split", examples=["test.jsonl"])
    hub: str | None = Field(
        default=None, description="dataset name for datasets.load_dataset", examples=["hotpotqa/hotpot_qa"]
    )
    config: str | None = Field(
        default=None, description="configuration of the hub's dataset", examples=["distractor"]
    )
    pool: str | None = Field(
        default=None,
        description="file or hub split that search and test are drawn from, by seed",
        examples=["validation"],
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="of the drawing from the pool", examples=[1]
    )
    shared: dict[str, str] = Field(
        default_factory=dict,
        description="fields of every row, each read from a JSON file beside the spec",
        examples=[{"tools": "tools.json"}],
    )
    prepare: PythonFunction | None = Field(
        default=None,
        description="(row) -> example row; a ValueError leaves the row out and is reported",
        examples=[{"python": "rows:prepare"}],
    )
    id_field: str | None = Field(
        default=None, description="field with a unique id; the row number if absent", examples=["id"]
    )


class ReferenceSpec(Strict):
    """The unit of the budget: one sample of this model at these lengths (AgentTTS, arXiv 2508.00890)."""

    active_params: Annotated[PositiveFloat, Number] = Field(
        default=3e9, description="active parameters of the reference model", examples=[3e9]
    )
    prompt_tokens: Annotated[PositiveInt, Number] = Field(
        default=128, description="length of its prompt", examples=[128]
    )
    generated_tokens: Annotated[PositiveInt, Number] = Field(
        default=64, description="length of its sample", examples=[64]
    )


class BudgetSpec(Strict):
    """The budget of a search, in units or in US dollars, unless `--budget` gives another."""

    units: Annotated[PositiveFloat, Number] | None = Field(
        default=None, description="planned compute per query, in units of the reference", examples=[400]
    )
    usd: Annotated[PositiveFloat, Number] | None = Field(
        default=None,
        description="instead of units: planned US dollars per query, by the models' prices",
        examples=[0.002],
    )
    reference: ReferenceSpec = Field(
        default=ReferenceSpec(),
        description="what one unit is",
        examples=[{"active_params": 3e9, "prompt_tokens": 128, "generated_tokens": 64}],
    )

    @property
    def amount(self) -> float:
        """The budget per query, in the measure that it is given in."""
        return float(self.units if self.usd is None else self.usd)  # type: ignore[arg-type]  # one is set
