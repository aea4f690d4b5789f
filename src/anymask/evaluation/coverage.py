"""Where do a data set's images come from? Shares of images and masks by group (paper, section 6, table 1).

A metadata table says for each image its country, region, income group or anything else; a second table may
say it for each country. Every group gets the number of countries (where there is such a column), images and
masks, and their shares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anymask.data.annotated import AnnotatedImage
from anymask.errors import DataError
from anymask.evaluation.report import markdown_table, percent, plot_bars, write_report
from anymask.evaluation.tables import Row, read_table

UNKNOWN = "unknown"
# Share of images (%) by group in SA-1B, COCO and Open Images (paper, table 1).
PUBLISHED = {
    "Africa": (2.8, 3.0, 1.7),
    "Asia & Oceania": (36.2, 11.4, 14.3),
    "Europe": (49.8, 34.2, 36.2),
    "Latin America & Caribbean": (3.5, 3.1, 5.0),
    "North America": (7.7, 48.3, 42.8),
    "high income countries": (54.0, 89.1, 87.5),
    "middle income countries": (45.0, 10.5, 12.0),
    "low income countries": (0.9, 0.4, 0.5),
}


@dataclass(frozen=True)
class GroupCoverage:
    """What a group has. countries: None where the table has no such column; shares are of the known images."""

    countries: int | None
    images: int
    masks: int
    image_share: float
    mask_share: float


@dataclass(frozen=True)
class CoverageResults:
    """Per attribute (a column of the table) its groups; unknown: images without a row or an entry, by attribute."""

    data: str
    images: int
    masks: int
    unknown: dict[str, int]
    groups: dict[str, dict[str, GroupCoverage]]

    def table(self, attribute: str) -> tuple[list[str], list[list[str]]]:
        """Header and rows of one attribute, the largest group first, shares in per cent."""
        header = [attribute, "countries", "images", "masks", "% images", "% masks", "masks per image"]
        rows = []
        for group, of in self.groups[attribute].items():
            countries = "-" if of.countries is None else str(of.countries)
            shares = [percent(of.image_share), percent(of.mask_share)]
            rows.append([group, countries, f"{of.images:,}", f"{of.masks:,}", *shares, f"{of.masks / of.images:.1f}"])
        return header, rows

    def to_markdown(self) -> str:
        """A page with a table for each attribute and the paper's figures."""
        parts = [f"# Coverage: {self.data}\n\n{self.masks:,} masks on {self.images:,} images.\n"]
        for attribute in self.groups:
            parts.append(f"## {attribute}\n\n{markdown_table(*self.table(attribute))}")
            if self.unknown[attribute]:
                parts.append(f"Not known of {self.unknown[attribute]:,} images, which the shares leave out.\n")
        rows = [[group, *(f"{share:.1f}" for share in shares)] for group, shares in PUBLISHED.items()]
        header = ["% images (paper)", "SA-1B", "COCO", "Open Images"]
        return "\n".join([*parts, f"## The paper's figures\n\n{markdown_table(header, rows)}"])


def measure_coverage(
    images: Iterable[AnnotatedImage], rows: Sequence[Row], countries: Sequence[Row] = (), data: str = "data"
) -> CoverageResults:
    """Count images and masks by every column of `rows` but `image` and, with `countries`, `country`.

    `rows` name images by file, with or without suffix and folders; `countries` give further columns for each
    `country`. Raises DataError when no image is in the table.
    """
    of_country = {row["country"]: row for row in countries}
    facts = {Path(row["image"]).stem: {**of_country.get(row.get("country", ""), {}), **row} for row in rows}
    columns = dict.fromkeys(column for row in (*rows[:1], *countries[:1]) for column in row)
    attributes = [column for column in columns if column not in ("image", "country")]
    if not attributes and "country" in columns:
        attributes = ["country"]
    if not attributes:
        raise DataError("the table has no column besides image; allowed: country, region, income or any other")
    counts: dict[str, dict[str, list[int]]] = {attribute: defaultdict(lambda: [0, 0]) for attribute in attributes}
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    total_images = total_masks = 0
    for image in images:
        total_images, total_masks = total_images + 1, total_masks + len(image.records)
        row = facts.get(image.stem, {})
        for attribute in attributes:
            group = row.get(attribute) or UNKNOWN
            counts[attribute][group][0] += 1
            counts[attribute][group][1] += len(image.records)
            if row.get("country"):
                seen[attribute, group].add(row["country"])
    unknown = {attribute: of.pop(UNKNOWN, [0, 0])[0] for attribute, of in counts.items()}
    groups = {
        attribute: _shares(of, {group: seen[attribute, group] for group in of} if "country" in columns else None)
        for attribute, of in counts.items()
        if of
    }
    if not groups:
        raise DataError(f"the table has none of the {total_images} images of {data}; allowed: their file names")
    return CoverageResults(data, total_images, total_masks, unknown, groups)


def evaluate_coverage(
    images: Iterable[AnnotatedImage],
    table: str | Path,
    out: str | Path,
    countries: str | Path | None = None,
    data: str = "data",
) -> CoverageResults:
    """Measure coverage from files and write out/coverage.json, coverage.md and coverage.png.

    `table` is CSV or JSON with a column `image`, `countries` one with `country`. Raises DataError for tables
    that are broken or know none of the images.
    """
    rows = read_table(table, required=["image"])
    more = [] if countries is None else read_table(countries, required=["country"])
    results = measure_coverage(images, rows, more, data)
    content: dict[str, Any] = {**asdict(results), "published": PUBLISHED}
    write_report(out, content, results.to_markdown(), "coverage")
    pairs = [(group, of) for groups in results.groups.values() for group, of in groups.items()]
    series = {
        "% images": [100 * of.image_share for _, of in pairs],
        "% masks": [100 * of.mask_share for _, of in pairs],
    }
    names = [group.replace(" & ", "\n& ").replace(" income ", "\nincome\n") for group, _ in pairs]
    plot_bars(Path(out) / "coverage.png", names, series, "share (%)", data)
    return results


def _shares(of_groups: dict[str, list[int]], countries: dict[str, set[str]] | None) -> dict[str, GroupCoverage]:
    images, masks = (sum(counts[place] for counts in of_groups.values()) for place in (0, 1))
    ranked = sorted(of_groups.items(), key=lambda item: (-item[1][0], item[0]))
    return {
        group: GroupCoverage(
            None if countries is None else len(countries[group]),
            own_images,
            own_masks,
            own_images / images,
            own_masks / masks if masks else 0.0,
        )
        for group, (own_images, own_masks) in ranked
    }
