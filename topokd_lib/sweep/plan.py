"""A file that says which runs there shall be: recipes × pairs × seeds, and what they need first."""

import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from topokd_lib.errors import RecipeError, did_you_mean
from topokd_lib.files import is_locked
from topokd_lib.recipes import benchmark_pairs, default_directory, find_recipe, load_recipe
from topokd_lib.recipes.load import KINDS, command_for
from topokd_lib.recipes.run import artefact_lock
from topokd_lib.training.log import MAIN
from topokd_lib.training.run import is_in_use

__all__ = ["Entry", "PlannedRun", "Sweep"]


@dataclass(frozen=True)
class Entry:
    """A recipe in a sweep; one that changes nothing is written as its name alone.

    Args:
        recipe: Name of a recipe of the library, or a path, from the sweep's file or the current directory.
        name: What the table and the directories call it; its recipe's name by default.
        set: Fields to change, by their dotted names: ``{schedule.epochs: 60}``.
        pairs: In place of the sweep's.
        seeds: In place of the sweep's.
    """

    recipe: str
    name: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    pairs: list[str] | None = None
    seeds: list[int] | int | None = None


@dataclass(frozen=True)
class PlannedRun:
    """One process of a sweep.

    Args:
        name: Unique in the sweep: method, networks and seed, as the directory has them.
        method: Row of the results table.
        columns: The pairs or students in whose columns it counts; empty if it only prepares something.
        seed: Of the training; ``None`` if nothing is trained that has one.
        command: A key of :data:`topokd_lib.recipes.load.KINDS`.
        words: What stands behind the command.
        output: The run directory or the file that it leaves, below the sweep's home.
        text: The resolved recipe; empty if it is impossible.
        needs: Names of the runs of this sweep whose output it reads.
        impossible: Why it cannot be run at all; empty if it can.
    """

    name: str
    method: str
    columns: tuple[str, ...]
    seed: int | None
    command: str
    words: tuple[str, ...]
    output: Path
    text: str = ""
    needs: tuple[str, ...] = ()
    impossible: str = ""

    @property
    def line(self) -> str:
        """What one would type."""
        return shlex.join(["topokd", *self.command.split(), *self.words])

    def program(self, *more: str) -> list[str]:
        """Its process: this interpreter and this library, with more words for ``topokd train``."""
        words = [*self.command.split(), *self.words, *(more if self.command == "train" else ())]
        return [sys.executable, "-m", "topokd_lib.cli", *words]

    def is_done(self, home: Path) -> bool:
        """Whether it has left what it was to leave; a run by another recipe does not count."""
        path = home / self.output
        if self.command != "train":  # artefacts get their names when they are complete
            return path.exists()
        return (path / "record.json").exists() and self._is_recipe_of(path)

    def epochs_done(self, home: Path) -> int:
        """Epochs of the main stage that an interrupted training has behind it."""
        try:
            log = (home / self.output / "log.jsonl").read_text(encoding="utf-8")
            return sum(json.loads(line)["stage"] == MAIN for line in log.splitlines())
        except (OSError, ValueError, KeyError, TypeError):
            return 0  # nothing was trained yet, or the training itself will complain

    def is_running(self, home: Path) -> bool:
        """Whether a process is at it, whoever has started that."""
        path = home / self.output
        return is_in_use(path) if self.command == "train" else is_locked(artefact_lock(path))

    def _is_recipe_of(self, path: Path) -> bool:
        """Whether the run in ``path`` was made as planned; fields that it did not know yet do not count."""
        try:
            stored = (path / "recipe.yaml").read_text(encoding="utf-8")
        except FileNotFoundError:
            return True  # there is only a record, which was brought here
        planned = re.sub(r"(?m)^seed: .*$", f"seed: {self.seed}", self.text)
        if stored == planned:
            return True
        try:
            return _holds(yaml.safe_load(planned), yaml.safe_load(stored))
        except yaml.YAMLError:
            return False  # `topokd train` will say what is wrong there


@dataclass(frozen=True)
class Sweep:
    """Many runs as one thing. Made by :meth:`load`.

    Args:
        path: The file.
        home: Where ``runs/`` and ``artefacts/`` lie; the processes run there.
        baseline: The method that differences are taken to.
        methods: Rows of the results table, in the order of the file.
        runs: In the order in which they may run: what is needed comes before what needs it.
    """

    path: Path
    home: Path
    baseline: str
    methods: tuple[str, ...]
    runs: tuple[PlannedRun, ...]

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def folder(self) -> Path:
        """Where status and logs are written."""
        return self.home / "runs" / "sweeps" / self.name

    @classmethod
    def load(cls, path: Path | str, home: Path | str | None = None) -> "Sweep":
        """Read a sweep and every recipe in it; whatever is wrong with one of them is told here.

        Args:
            path: A YAML file with the fields ``recipes`` (a list of :class:`Entry` or names) and, all
                optional: ``prepare`` (likewise, once for each pair and before the others), ``pairs``,
                ``seeds`` (a list, or how many from 0), ``set`` (for all ``recipes``), ``baseline`` (the first
                method by default) and ``home`` (the current directory by default).
            home: In place of the file's.

        Raises:
            RecipeError: If the file or a recipe in it is wrong; the message names it.
            UnknownName: If there is no such recipe or pair.
        """
        path = Path(path)
        content = _content(path)
        pairs = _strings(path, "pairs", content.get("pairs", []))
        shared = _mapping(path, "set", content.get("set", {}))
        seeds = _seeds(path, content.get("seeds", [0]))
        runs: dict[Path, PlannedRun] = {}
        for entry in _entries(path, content, "prepare"):
            for run in _expand(path, entry, pairs, seeds=[0]):
                _add(path, runs, replace(run, columns=()))
        entries = _entries(path, content, "recipes")
        for entry in entries:
            for run in _expand(path, replace(entry, set={**shared, **entry.set}), pairs, seeds):
                _add(path, runs, run)
        methods = list(dict.fromkeys(run.method for run in runs.values() if run.columns))
        baseline = str(content.get("baseline", methods[0]))
        if baseline not in methods:
            raise RecipeError(
                f"{path}: the baseline {baseline!r} is none of its methods.{did_you_mean(baseline, methods)} "
                f"They are: {', '.join(methods)}"
            )
        where = Path(home if home is not None else str(content.get("home", "."))).expanduser()
        return cls(path, where, baseline, tuple(methods), _in_order(path, list(runs.values())))


FIELDS = ("baseline", "home", "pairs", "prepare", "recipes", "seeds", "set")


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not content.get("recipes"):
        raise RecipeError(f"{path} is no sweep: it must hold a mapping with a list of recipes")
    for name in content:
        if name not in FIELDS:
            raise RecipeError(
                f"{path}: a sweep has no field {name!r}.{did_you_mean(str(name), FIELDS)} "
                f"It takes: {', '.join(FIELDS)}"
            )
    return content


def _entries(path: Path, content: Mapping[str, Any], part: str) -> list[Entry]:
    known = [f.name for f in fields(Entry)]
    entries = []
    listed = content.get(part, [])
    if not isinstance(listed, list):
        raise RecipeError(f"{path}: {part} must be a list of recipes, got {listed!r}")
    for given in listed:
        about = {"recipe": given} if isinstance(given, str) else given
        if not isinstance(about, dict) or not isinstance(about.get("recipe"), str):
            raise RecipeError(
                f"{path}: {part} must list names of recipes, or mappings with the field 'recipe'; "
                f"got {given!r}"
            )
        for name in about:
            if name not in known:
                raise RecipeError(
                    f"{path}: an entry of {part} has no field {name!r}.{did_you_mean(str(name), known)} "
                    f"It takes: {', '.join(known)}"
                )
        _mapping(path, f"set of {about['recipe']}", about.get("set", {}))
        entries.append(Entry(**about))
    return entries


def _mapping(path: Path, name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: {name} must map dotted fields to values, got {value!r}")
    return value


def _strings(path: Path, name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecipeError(f"{path}: {name} must be a list of names, got {value!r}")
    return value


def _seeds(path: Path, value: object) -> list[int]:
    seeds = list(range(value)) if isinstance(value, int) else value
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise RecipeError(f"{path}: seeds must be a list of numbers, or how many; got {value!r}")
    return seeds


def _expand(path: Path, entry: Entry, pairs: Sequence[str], seeds: Sequence[int]) -> Iterator[PlannedRun]:
    """The runs of one entry: each of its pairs with each of its seeds."""
    beside = path.parent / entry.recipe
    source = str(beside) if beside.is_file() else entry.recipe
    recipe: dict[str, Any] = yaml.safe_load(find_recipe(source).read_text(encoding="utf-8")) or {}
    command = command_for(recipe)
    changes = [word for key, value in entry.set.items() for word in (f"--{key}", _word(value))]
    chosen = pairs if entry.pairs is None else _strings(path, f"pairs of {entry.recipe}", entry.pairs)
    own = seeds if entry.seeds is None else _seeds(path, entry.seeds)
    everyone: list[str | None] = [*chosen] or [None]
    kind: Any = KINDS[command]
    for pair in everyone:
        named = [] if pair is None else ["--pair", pair]
        method = entry.name or source.removesuffix(".yaml")
        if reason := _impossible(source, pair):
            name = f"{method}/{pair}"
            yield PlannedRun(
                name, method, (str(pair),), None, command, (), Path("runs", name), impossible=reason
            )
            continue
        try:
            built, text = load_recipe(source, [*named, *changes], kind=kind)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error
        words = ["--config", str(Path(source).resolve()) if Path(source).is_file() else source, *named]
        if command != "train":
            yield PlannedRun(
                str(built.artefact), method, (), None, command, (*words, *changes), built.artefact, text
            )
            continue
        for seed in own:
            usual = default_directory(source, replace(built, seed=seed), pair)
            output = Path("runs", entry.name, *usual.parts[-2:]) if entry.name else usual
            yield PlannedRun(
                name=str(output.relative_to("runs")),
                method=str(output.parents[1].relative_to("runs")),
                columns=(pair or built.student,),
                seed=seed,
                command=command,
                words=(*words, *changes, "--seed", str(seed), "--out", str(output)),
                output=output,
                text=text,
            )


def _impossible(source: str, pair: str | None) -> str:
    known = benchmark_pairs(None).get(pair or "")
    return known.impossible.get(source.removesuffix(".yaml"), "") if known else ""


def _word(value: object) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _add(path: Path, runs: dict[Path, PlannedRun], run: PlannedRun) -> None:
    """Add a run, once: a student alone is the same in every pair that it belongs to."""
    known = runs.get(run.output)
    if known is None:
        runs[run.output] = run
    elif known.text != run.text:
        raise RecipeError(
            f"{path}: two different runs would be written to {run.output}; give one of the entries a name"
        )
    else:
        columns = tuple(dict.fromkeys((*known.columns, *run.columns)))
        runs[run.output] = replace(known, columns=columns)


def _in_order(path: Path, runs: list[PlannedRun]) -> tuple[PlannedRun, ...]:
    """Say what each run needs, and sort accordingly."""
    outputs = {run.output: run.name for run in runs}
    waiting = []
    for run in runs:
        mentioned = {Path(value) for value in _values(yaml.safe_load(run.text))}
        found = {
            outputs[place] for value in mentioned for place in (value, value.parent) if place in outputs
        } - {run.name}
        waiting.append(replace(run, needs=tuple(sorted(found))))
    ordered: list[PlannedRun] = []
    while waiting:
        placed = {run.name for run in ordered}
        ready = [run for run in waiting if set(run.needs) <= placed]
        if not ready:
            raise RecipeError(f"{path}: {', '.join(run.name for run in waiting)} need each other")
        ordered += ready
        waiting = [run for run in waiting if run not in ready]
    return tuple(ordered)


def _holds(tree: object, part: object) -> bool:
    """Whether everything in ``part`` is in ``tree`` as well."""
    if isinstance(tree, Mapping) and isinstance(part, Mapping):
        return all(name in tree and _holds(tree[name], value) for name, value in part.items())
    return tree == part


def _values(tree: object) -> Iterator[str]:
    """All strings in a tree of mappings and lists."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _values(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value)
