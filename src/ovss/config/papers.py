"""The shape of ``papers/*.yaml``: tables, rows, runs, protocols, differences and claims of one paper.

A row says what makes its numbers: a ``run`` (a method with settings), a ``citation`` (numbers the paper took from
elsewhere), or ``derived`` (computed from other rows). ``extra_of`` marks a run of ours that no paper has printed.
Whether the method exists, and whether its settings are right, is checked where the plan is made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, StrictFloat, StrictInt, StrictStr, model_validator

from ovss.config.base import Strict
from ovss.config.params import ScaleName
from ovss.config.runs import Metric, Preset, Protocol, Run, Settings, Training, need, unique

Verdict = Literal["supported", "contradicted", "inconclusive", "not_run"]
Scalar = StrictStr | StrictInt | StrictFloat
_IDENTIFIER = r"[a-z0-9_]+"
Identifier = Annotated[str, Field(pattern=f"^{_IDENTIFIER}$")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class Code(Strict):
    """Where the authors' code is, and the commit that was read."""

    url: str | None = Field(description="Address of the repository; null: nothing was released.")
    commit: str | None = Field(default=None, description="Commit that was read.")
    licence: str = Field(description="Licence of the code, or 'none stated'.")
    note: str | None = None


class ModelRole(Strict):
    """Which weights play a role of the paper at each kind of scale."""

    full: str | None = Field(description="Id in weights.yaml; null: not published or not known.")
    tiny: str | None = Field(default=None, description="Model trained in the tiny world; null: no counterpart there.")
    note: str | None = None


class CaptionRole(Strict):
    """Which caption collection (datasets.yaml) plays a role of the paper at each kind of scale."""

    full: str | None = Field(description="Collection of the full scale; null: not published or not known.")
    tiny: str | None = Field(default=None, description="Collection of the tiny world; null: no counterpart there.")
    note: str | None = None


class PairRole(Strict):
    """Which image-text pairs (datasets.yaml, pairs) play a role of the paper at each kind of scale."""

    full: str | None = Field(description="Pairs of the full scale; null: not published or not known.")
    tiny: str | None = Field(default=None, description="Pairs of the tiny world; null: no counterpart there.")


class Column(Strict):
    """One value column: a data set, or a measure on one."""

    label: str = Field(description="Heading, as printed.")
    dataset: str | None = Field(description="Data set name looked up in params.yaml; null: nothing is computed here.")
    metric: Metric | None = Field(default=None, description="Where it differs from the table's metric.")
    unit: str | None = Field(default=None, description="Where it differs from the table's unit.")
    higher_is_better: bool | None = Field(default=None, description="Where it differs from the table's direction.")


class Derived(Strict):
    """A number computed from others of the same table: exactly one of the two."""

    mean_of: tuple[str, ...] | None = None
    difference_of: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.mean_of is None) == (self.difference_of is None):
            raise ValueError("give exactly one of mean_of, difference_of")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The rows or columns it is made of."""
        return self.mean_of or self.difference_of or ()


class Row(Strict):
    """One line of a table: exactly one of ``run``, ``citation``, ``derived``; ``extra_of`` goes with ``run``."""

    id: Identifier
    labels: dict[str, Scalar | None] = Field(default_factory=dict)
    published: dict[str, Scalar | None] = Field(default_factory=dict, description="null: blank in the paper.")
    run: Run | None = None
    citation: str | None = Field(default=None, description="Where the paper took the numbers from.")
    derived: Derived | None = None
    extra_of: str | None = Field(default=None, description="Row that this run of ours varies.")
    same_as: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="table.row: columns in which this row is that row's run."
    )
    note: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [key for key in ("run", "citation", "derived") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"row '{self.id}': give exactly one of run, citation, derived (given: {given or 'none'})")
        if self.extra_of is not None and (self.run is None or self.published):
            raise ValueError(f"row '{self.id}': extra_of needs a run and no published numbers")
        return self

    @property
    def kind(self) -> Literal["run", "citation", "derived", "extra"]:
        """What the row is."""
        if self.extra_of is not None:
            return "extra"
        return "run" if self.run is not None else "citation" if self.citation is not None else "derived"


class Table(Strict):
    """A table of the paper."""

    title: str
    metric: Metric
    unit: str = ""
    higher_is_better: bool | None = Field(default=True, description="null: neither direction is better.")
    absent: Literal["skip", "zero"] = Field(default="skip", description="What a class in no image counts in a mean.")
    key_columns: tuple[str, ...] = Field(description="Columns that name a row and measure nothing.")
    columns: tuple[str, ...] = Field(description="Value columns, in the paper's order.")
    derived: dict[str, Derived] = Field(default_factory=dict, description="Columns computed from other columns.")
    note: str | None = None
    gallery: tuple[str, ...] = Field(default=(), description="Rows whose predictions the report shows; the first six.")
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        unique("row id", (row.id for row in self.rows))
        for name in self.gallery:
            need("gallery: row", name, (row.id for row in self.rows))
        unique("column", (*self.key_columns, *self.columns))
        for column, derived in self.derived.items():
            for name in (column, *derived.parts):
                need("derived: column", name, self.columns)
        for row in self.rows:
            self._check_row(row)
        return self

    def _check_row(self, row: Row) -> None:
        where = f"row '{row.id}':"
        for label in row.labels:
            need(f"{where} label", label, self.key_columns)
        for column in row.published:
            need(f"{where} published column", column, self.columns)
        missing = [column for column in self.columns if row.published and column not in row.published]
        if missing:
            raise ValueError(f"{where} published lacks column '{missing[0]}'; write its number, or null for a blank")
        others = [other.id for other in self.rows if other.id != row.id]
        for other in (*((row.extra_of,) if row.extra_of else ()), *(row.derived.parts if row.derived else ())):
            need(f"{where} row", other, others)
        if row.run is not None:
            run = row.run
            for column in (*run.settings_per_column, *run.metrics, *(run.columns or ())):
                need(f"{where} run column", column, self.columns)
        for column in (column for columns in row.same_as.values() for column in columns):
            need(f"{where} same_as column", column, self.columns)

    def row(self, row_id: str) -> Row:
        """The row of that id.

        Raises:
            ValueError: there is none.
        """
        need("row", row_id, (row.id for row in self.rows))
        return next(row for row in self.rows if row.id == row_id)


class Difference(Strict):
    """A place where the paper and the released code differ, or where both are silent."""

    id: Slug
    paper: str = Field(description="What the paper says.")
    code: str = Field(description="What the released code does.")
    default: Literal["paper", "code", "choice"] = Field(description="Which one our rows follow; choice: neither says.")
    switch: str | None = Field(description="Setting or protocol field that turns it; null: there is none.")
    tables: tuple[str, ...] = Field(description="Tables whose numbers it can change.")
    source: str


class Claim(Strict):
    """A sentence of the paper made checkable: ``better`` against ``worse``, column by column.

    With d = number of ``better`` - number of ``worse``: ``greater`` wants d > margin, ``lower`` wants d < -margin,
    ``not_worse`` wants d >= -margin (d <= margin where lower is better). ``better_column`` and ``worse_column`` compare
    two columns instead of the same one.
    """

    id: Slug
    text: str
    source: str = Field(description="Table or section that says it.")
    better: str = Field(description="table.row")
    worse: str = Field(description="table.row")
    kind: Literal["greater", "not_worse", "lower"] = "greater"
    columns: Literal["all"] | tuple[str, ...] = "all"
    better_column: str | None = None
    worse_column: str | None = None
    margin: float = Field(default=0.0, ge=0, description="In the column's unit.")
    explanations: dict[ScaleName, dict[Verdict, str]] = Field(
        default_factory=dict, description="By scale, then verdict: why it comes out so; shown where it does."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("better", "worse"):
            if getattr(self, key).count(".") != 1:
                raise ValueError(f"{key} '{getattr(self, key)}' must be written table.row")
        if (self.better_column is None) != (self.worse_column is None):
            raise ValueError("better_column and worse_column: give both or neither")
        if self.better == self.worse and self.better_column == self.worse_column:
            raise ValueError(f"better and worse are the same cell, '{self.better}'")
        return self

    def pairs(self, paper: Paper) -> list[tuple[str, str]]:
        """(column of better, column of worse) for every comparison.

        "all": the columns that both tables have, those derived from others left out.
        """
        if self.better_column is not None and self.worse_column is not None:
            return [(self.better_column, self.worse_column)]
        if self.columns != "all":
            return [(column, column) for column in self.columns]
        better, worse = (paper.tables[place.partition(".")[0]] for place in (self.better, self.worse))
        return [(c, c) for c in better.columns if c in worse.columns and c not in (*better.derived, *worse.derived)]

    def holds(self, better: float, worse: float, higher_is_better: bool | None = True) -> bool:
        """Whether two numbers bear the claim out."""
        difference = better - worse
        if self.kind == "greater":
            return difference > self.margin
        if self.kind == "lower":
            return difference < -self.margin
        return difference <= self.margin if higher_is_better is False else difference >= -self.margin


@dataclass(frozen=True)
class Cell:
    """What one run does in one column: everything that overrides anything has been applied."""

    dataset: str
    metric: Metric
    method: str
    model: str | None
    settings: Settings
    companions: dict[str, str]
    protocol_name: str
    protocol: Protocol
    training: Training | None
    needs: tuple[str, ...]
    captions: str | None = None


class Paper(Strict):
    """One paper: its tables and what is claimed on them."""

    paper: Identifier
    title: str
    citation: str
    url: str
    code: Code
    unwritten: tuple[str, ...] = Field(default=(), description="Methods that rows name and that have no module yet.")
    models: dict[str, ModelRole]
    captions: dict[str, CaptionRole] = Field(default_factory=dict, description="Caption collections by role.")
    pairs: dict[str, PairRole] = Field(default_factory=dict, description="Image-text pairs, by the name in training.")
    columns: dict[str, Column]
    protocols: dict[str, Protocol]
    presets: dict[str, Preset] = Field(default_factory=dict)
    own_images: dict[Identifier, str] = Field(
        default_factory=dict, description="Names that 'ovss segment' gives to rows of this paper: table.row by name."
    )
    tables: dict[str, Table]
    differences: tuple[Difference, ...] = ()
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("models", "captions", "protocols", "presets", "tables"):
            for name in getattr(self, key):
                if not re.fullmatch(_IDENTIFIER, name):
                    raise ValueError(f"{key}: name '{name}' may hold only a-z, 0-9 and _")
        unique("difference id", (difference.id for difference in self.differences))
        unique("claim id", (claim.id for claim in self.claims))
        for name, preset in self.presets.items():
            for model in preset.companions.values():
                need(f"preset '{name}': model", model, self.models)
        for name, table in self.tables.items():
            for column in table.columns:
                need(f"table '{name}': column", column, self.columns)
            for row in table.rows:
                self._check_run(f"{name}.{row.id}", row.run)
                for other in row.same_as:
                    self._check_place(f"row '{name}.{row.id}': same_as", other)
        for name, place in self.own_images.items():
            self._check_place(f"own_images '{name}'", place)
            table_name, _, row_id = place.partition(".")
            if self.tables[table_name].row(row_id).run is None:
                raise ValueError(f"own_images '{name}': row '{place}' has no run; name one that has")
        for difference in self.differences:
            for name in difference.tables:
                need(f"difference '{difference.id}': table", name, self.tables)
        for claim in self.claims:
            self._check_claim(claim)
        return self

    def _check_run(self, where: str, run: Run | None) -> None:
        if run is None:
            return
        need(f"row '{where}': protocol", run.protocol, self.protocols)
        asked = run.training.companions.values() if run.training else ()
        for model in (*((run.model,) if run.model else ()), *run.companions.values(), *asked):
            need(f"row '{where}': model", model, self.models)
        if run.captions is not None:
            need(f"row '{where}': captions", run.captions, self.captions)
        if run.preset is not None:
            need(f"row '{where}': preset", run.preset, self.presets)
        try:
            self.protocols[run.protocol].changed(run.protocol_changes)
        except ValueError as error:
            raise ValueError(f"row '{where}': protocol_changes: {error}") from None

    def _check_place(self, where: str, place: str) -> None:
        table, _, row = place.partition(".")
        need(f"{where}: table", table, self.tables)
        need(f"{where}: row", row, (row.id for row in self.tables[table].rows))

    def _check_claim(self, claim: Claim) -> None:
        for key in ("better", "worse"):
            self._check_place(f"claim '{claim.id}': {key}", getattr(claim, key))
        pairs = claim.pairs(self)
        if not pairs:
            raise ValueError(f"claim '{claim.id}': the two tables share no column; give better_column and worse_column")
        for columns, key in zip(zip(*pairs, strict=True), ("better", "worse"), strict=True):
            for column in columns:
                need(f"claim '{claim.id}': column", column, self.tables[getattr(claim, key).partition(".")[0]].columns)

    def cell(self, table: str, row: str, column: str) -> Cell | None:
        """What the row runs in the column; None where nothing is computed.

        Settings: the preset, the preset on this data set, the row, the row in this column; a later one wins.
        Protocol: the protocol, the protocol on this data set, the row's changes.
        """
        line, place = self.tables[table].row(row), self.columns[column]
        for other, columns in line.same_as.items():
            if column in columns:
                other_table, _, other_row = other.partition(".")
                return self.cell(other_table, other_row, column)
        run = line.run
        if run is None or column in self.tables[table].derived or (run.columns and column not in run.columns):
            return None
        dataset = run.dataset or place.dataset
        if dataset is None:
            return None
        preset = self.presets[run.preset] if run.preset else Preset(description="")
        layers = (preset.settings, preset.per_column.get(dataset, {}), run.settings,
                  run.settings_per_column.get(column, {}))  # fmt: skip
        settings = {key: value for layer in layers for key, value in layer.items()}
        protocol = self.protocols[run.protocol].on(dataset).changed(run.protocol_changes)
        metric = run.metrics.get(column) or place.metric or self.tables[table].metric
        return Cell(dataset, metric, run.method, run.model, settings, {**preset.companions, **run.companions},
                    run.protocol, protocol, run.training, run.needs, run.captions)  # fmt: skip
