"""What a page of metrics says, as Prometheus reads it."""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from app import metrics


@dataclass(frozen=True)
class Scrape:
    """Values by the name of the sample and its labels, which are sorted."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    @classmethod
    def of(cls, page: str) -> "Scrape":
        """Reads a page; fails where it is none."""
        return cls(
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
            }
        )

    @classmethod
    def here(cls) -> "Scrape":
        """What this process has counted so far."""
        return cls.of(metrics.page().decode())

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _ in self.values}

    @property
    def label_values(self) -> set[str]:
        """The values of all labels."""
        return {value for _, labels in self.values for _, value in labels}

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name that have these labels among theirs; 0 when there is none."""
        return sum(
            value
            for (found, given), value in self.values.items()
            if found == name and set(labels.items()) <= set(given)
        )

    def more(self, before: "Scrape", name: str, **labels: str) -> float:
        """By how much `value` has grown since an earlier scrape."""
        return self.value(name, **labels) - before.value(name, **labels)
