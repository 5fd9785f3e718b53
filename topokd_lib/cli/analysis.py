"""``topokd free-clouds`` and ``topokd calibrate``: what losses ask for, and how hard they pull."""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from topokd_lib.cli.parser import Stages, new_parser, say
from topokd_lib.recipes.load import add_recipe_options, build_recipe, parse_recipe
from topokd_lib.recipes.recipe import Recipe

__all__ = ["calibrate", "free_clouds"]


def free_clouds(words: list[str]) -> None:
    """Descend each loss with points that are free to move, and tell what became of them."""
    from topokd_lib.analysis import free_cloud_table, run_free_clouds
    from topokd_lib.analysis.free_cloud import LOSSES
    from topokd_lib.training.run import provenance

    parser = new_parser("free-clouds", "[--out FILE] [--seeds N] [--steps N] [--rtd]")
    parser.add_argument("--out", default="results/free_clouds.json", help="where the numbers are written")
    parser.add_argument("--seeds", type=int, default=3, help="clouds of each kind")
    parser.add_argument("--steps", type=int, default=300, help="of the descent")
    parser.add_argument("--rtd", action="store_true", help="also RTD in dimension 1, which takes minutes")
    options = parser.parse_args(words)
    with closing(Stages()) as stages:
        rows = run_free_clouds(
            list(LOSSES) if options.rtd else None,
            seeds=options.seeds,
            steps=options.steps,
            progress=stages.show,
        )
    for line in free_cloud_table(rows):
        say(line)
    content = {
        "seeds": options.seeds,
        "steps": options.steps,
        "rows": [asdict(row) for row in rows],
        **provenance(),
    }
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    say(f"numbers: {path}")


def calibrate(words: list[str]) -> None:
    """Measure a weight."""
    from topokd_lib.recipes.calibrate import calibrate as measure

    parser = new_parser(
        "calibrate", "--config RECIPE --term TERM [--reference TERM] [--share X] [--FIELD VALUE ...]"
    )
    parser.add_argument("--term", required=True, help="the term whose weight is asked for")
    parser.add_argument("--reference", default="kd", help="the term that it should pull as hard as")
    parser.add_argument("--share", type=float, default=1.0, help="how many times as hard")
    parser.add_argument(
        "--epochs", type=int, default=1, help="trained before the measurement, without the term"
    )
    parser.add_argument("--batches", type=int, default=32, help="to average over")
    add_recipe_options(parser, Recipe)
    options, _ = parse_recipe(parser, words)
    recipe, _ = build_recipe(parser, options, Recipe)
    found = measure(
        recipe,
        options.term,
        reference=options.reference,
        share=options.share,
        epochs=options.epochs,
        batches=options.batches,
    )
    say(
        f"weight {found.weight:.4g} for {found.term!r}: its gradient is then {found.share:g} times as long "
        f"as that of {found.reference!r} with its weight, after {found.epochs} epoch(s), over "
        f"{found.batches} minibatches\n(without weights {found.norms[found.term]:.3g} and "
        f"{found.norms[found.reference]:.3g}; cosine of the angle between them {found.cosine:.2f})"
    )
