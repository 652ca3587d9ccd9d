"""docs/operating.md lists every metric with its labels, and its expressions name no other."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import Metric

from app import metrics
from app.metrics import CatalogueState
from tests.support.scraped import Scrape

ROOT = Path(__file__).parents[1]
SECTION = re.search(r"^## Metrics\n(.*?)^## ", (ROOT / "docs/operating.md").read_text(), re.MULTILINE | re.DOTALL)
TEXT = SECTION[1] if SECTION else ""
# A table's cell writes | as \|.
CODE = [code.replace("\\|", "|") for code in re.findall(r"`([^`\n]+)`", TEXT)]
# Names that are Prometheus's own.
UP = "up"
TYPES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}


def families() -> Iterable[Metric]:
    metrics.FEED.read(behind=0)
    metrics.CATALOGUE.read(CatalogueState({}, {}, 0))
    return REGISTRY.collect()


def shown_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def labels_of(name: str) -> list[str]:
    """The labels of a metric of ours, as it declares them."""
    owners = REGISTRY._collector_to_names.items()
    owner = next((owner for owner, names in owners if name in names), None)
    return list(getattr(owner, "_labelnames", ()))


SAMPLES = {f"{family.name}{suffix}" for family in families() for suffix in TYPES[family.type]}
EXPRESSIONS = [code for code in CODE if re.search(r"[({>]", code) and re.search(r"\b(images_|process_|up\{)", code)]


def test_every_metric_has_its_row_and_no_row_is_of_another() -> None:
    rows = {name for line in TEXT.splitlines() for name in _named(line) if line.startswith("| `")}

    assert rows == {shown_name(family) for family in families()}


def _named(line: str) -> list[str]:
    """The metrics that a row of the table is about: what its first cell names."""
    return re.findall(r"`((?:images|process)_\w+)`", line.split(" | ")[0])


OURS = [family for family in families() if family.name.startswith("images")]


@pytest.mark.parametrize("family", OURS, ids=shown_name)
def test_a_row_says_the_type_and_the_labels(family: Metric) -> None:
    [row] = [line for line in TEXT.splitlines() if line.startswith(f"| `{shown_name(family)}` |")]
    _, _, kind, labels, _, _ = (cell.strip() for cell in row.replace("\\|", "/").split("|"))

    assert kind == family.type
    declared = labels_of(family.name)
    if declared:
        assert re.findall(r"`(\w+)`", labels) == declared
    assert family.documentation


def test_there_are_expressions_to_check() -> None:
    assert len(EXPRESSIONS) >= 15


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_of_metrics_that_there_are(expression: str) -> None:
    bare = re.sub(r'"[^"]*"', '""', expression)

    assert set(re.findall(r"\b(?:images|process)_\w+", bare)) <= SAMPLES
    assert bare.count("(") == bare.count(")")
    assert bare.count("{") == bare.count("}")
    # Whatever else looks like a name is a function, a label, a keyword or `up`.
    known = SAMPLES | {UP, "sum", "max", "rate", "increase", "time", "absent", "histogram_quantile", "by", "job"}
    labels = {"le", "code", "kind", "state", "way", "operation", "pool", "direction", "limit"}
    assert set(re.findall(r"\b[a-z_]{2,}\b", bare)) <= known | labels


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_label_in_an_expression_is_one_of_its_metric(expression: str) -> None:
    for name, matchers in re.findall(r"(images_\w+)\{([^}]*)\}", expression):
        base = re.sub(r"_(total|bucket|count|sum)$", "", name)
        used = set(re.findall(r"(\w+)=", matchers))
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{base}"))

        assert used <= set(re.findall(r"`(\w+)`", row.split(" | ")[2]))


def test_what_alerts_are_about_is_there_before_it_happens_first() -> None:
    page = Scrape.here()
    for expression in EXPRESSIONS:
        for name, pattern in re.findall(r'(images_\w+)\{code=~?"([^"]*)"\}', expression):
            for code in pattern.split("|"):
                assert any(found == name and ("code", code) in labels for found, labels in page.values), expression


def test_counters_are_rated_and_gauges_are_not() -> None:
    kinds = {shown_name(family): family.type for family in families()}
    for expression in EXPRESSIONS:
        for name in re.findall(r"(?:rate|increase)\((\w+)", expression):
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            assert kinds[base] in ("counter", "histogram"), expression
