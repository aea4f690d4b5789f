"""`anymask evaluate`: judge a model on images whose masks are known; one small file per experiment."""

from __future__ import annotations

import typer

from anymask.cli import (
    evaluate_all,
    evaluate_compare,
    evaluate_edges,
    evaluate_fairness,
    evaluate_instances,
    evaluate_list,
    evaluate_points,
    evaluate_proposals,
    evaluate_quality,
    evaluate_text,
)

app = typer.Typer(no_args_is_help=True, help="Judge a model on images whose masks are known.")
app.command("list")(evaluate_list.list_all)
app.command("all")(evaluate_all.evaluate_all)
app.command("points")(evaluate_points.points)
app.command("compare")(evaluate_compare.compare)
app.command("edges")(evaluate_edges.edges)
app.command("proposals")(evaluate_proposals.proposals)
app.command("instances")(evaluate_instances.instances)
app.command("text")(evaluate_text.text)
app.command("fairness")(evaluate_fairness.fairness)
app.command("coverage")(evaluate_fairness.coverage)
app.command("quality")(evaluate_quality.quality)


@app.callback()
def evaluate() -> None:
    """Judge a model on images whose masks are known."""
