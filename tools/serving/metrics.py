"""The metrics of a serving process in OpenMetrics, made of its status and of what its callers asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from pillarbox.tools.serving.status import MOUNTED

CONTENT_TYPE: Final[str] = CONTENT_TYPE_LATEST
_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 30, 300)
_DATABASE: Final = ("group", "database")
_OF_MOUNTED: Final = {
    "logical_size_bytes": "Bytes in use of the files of a database",
    "physical_size_bytes": "Bytes of the files of a database",
    "limit_bytes": "The size limit of a database",
    "free_disk_bytes": "Bytes that are free on the disk of a database",
    "waiting": "Transactions and deliveries that wait for the writer of a database",
}
_BACKUPS: Final = ("snapshot", "capture", "check", "verification")


class Metrics:
    """Counts operations as they end, and gives all metrics when asked."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        """`status` gives the status of the server as it is now."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._operations = Histogram(
            "pillarbox_operation_seconds",
            "How long operations of callers took; message.deliver are the deliveries",
            ("operation",),
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._refusals = Counter(
            "pillarbox_operation_errors",
            "Operations that ended with an error, by its class",
            ("operation", "error"),
            registry=self._registry,
        )
        self._registry.register(_OfStatus(status))

    def count(self, operation: str, seconds: float, error: str) -> None:
        """Count an operation that has ended; `error` is the class of what it raised, empty when it went
        well.
        """
        self._operations.labels(operation).observe(seconds)
        if error:
            self._refusals.labels(operation, error).inc()

    def text(self) -> bytes:
        """All metrics as OpenMetrics."""
        make: Any = generate_latest  # it has no types
        text: bytes = make(self._registry)
        return text


class _OfStatus:
    """Makes metrics of the status each time that they are asked for."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def describe(self) -> Iterable[Any]:
        """Nothing: the status is not asked when this is registered."""
        return ()

    def collect(self) -> Iterable[Any]:
        """The metrics of the status."""
        status = self._status()
        mounted = _gauge("mounted", "1 when a database is mounted")
        sizes = {key: _gauge(key, text) for key, text in _OF_MOUNTED.items()}
        ages = GaugeMetricFamily(
            "pillarbox_backup_age_seconds",
            "Since the last snapshot, capture, check or verification; absent when there was none",
            labels=(*_DATABASE, "what"),
        )
        attention = _gauge("backups_need_attention", "The number of things that are wrong with the backups")
        for each in status["databases"]:
            labels = [each["group"], each["database"]]
            mounted.add_metric(labels, float(each["state"] == MOUNTED))
            for key, family in sizes.items():
                if key in each:
                    family.add_metric(labels, each[key])
            backups = each["backups"]
            attention.add_metric(labels, len(backups["concerns"]))
            for what in _BACKUPS:
                if (time_ms := backups[f"{what}_ms"]) is not None:
                    ages.add_metric([*labels, what], max(status["time_ms"] - time_ms, 0) / 1000)
        yield from (mounted, *sizes.values(), ages, attention, _failing(status))
        if status["replication"] is not None:
            yield from _of_replication(status["replication"], status["time_ms"])


def _gauge(name: str, text: str) -> Any:
    return GaugeMetricFamily(f"pillarbox_database_{name}", text, labels=_DATABASE)


def _failing(status: Mapping[str, Any]) -> Any:
    family = GaugeMetricFamily(
        "pillarbox_work_failing", "1 when the last run of a task failed", labels=("work", "subject")
    )
    for each in status["work"]:
        family.add_metric([each["work"], each["subject"]], float(bool(each["failure"])))
    return family


def _of_replication(found: Mapping[str, Any], now_ms: int) -> Iterable[Any]:
    """The metrics of a node; while it does not run, that alone."""
    family = GaugeMetricFamily(
        "pillarbox_replication_running", "1 when replication runs", found["state"] == "running"
    )
    yield family
    refused = CounterMetricFamily(
        "pillarbox_replication_refused", "Frames of other servers that were refused", labels=("reason",)
    )
    for reason, count in found["refused"].items():
        refused.add_metric([reason], count)
    yield refused
    if "folders" not in found:
        return
    yield from _of_folders(found["folders"], now_ms)
    yield from _of_links(found)


def _of_folders(folders: Iterable[Mapping[str, Any]], now_ms: int) -> Iterable[Any]:
    missing = _replication("missing_changes", "Changes of a folder that are missing here", "folder")
    aside = _replication("set_aside", "Items of a folder that cannot be applied here", "folder")
    lacks = _replication(
        "peer_lacks_changes", "Items of ours that a replica lacks, 10000 at most", "folder", "server"
    )
    in_sync = _replication("peer_in_sync", "1 when a replica is in sync with ours", "folder", "server")
    ages = _replication("row_age_seconds", "Since a replica last said what it has", "folder", "server")
    for each in folders:
        missing.add_metric([each["folder"]], each["missing"])
        aside.add_metric([each["folder"]], each["set_aside"])
        for peer in each["peers"]:
            labels = [each["folder"], peer["server"]]
            lacks.add_metric(labels, peer["lacks"])
            in_sync.add_metric(labels, float(peer["state"] == "in sync"))
            if peer["heard_ms"] is not None:
                ages.add_metric(labels, max(now_ms - peer["heard_ms"], 0) / 1000)
    yield from (missing, aside, lacks, in_sync, ages)


def _of_links(found: Mapping[str, Any]) -> Iterable[Any]:
    stopped = _replication("content_stopped", "1 while no content leaves this server")
    stopped.add_metric([], float(found["content_stopped"]))
    waits = _replication("hello_waits", "Servers whose answer is waited for before anything is sent")
    waits.add_metric([], len(found["waits_for"]))
    quarantined = _replication("quarantined", "Numberings that two copies of a server use")
    quarantined.add_metric([], len(found["quarantined"]))
    backlog = _replication("backlog_changes", "Changes that wait for a neighbour site", "site")
    for each in found["sites"]:
        backlog.add_metric([each["site"]], each["waiting"])
    up = _replication("link_up", "1 when a server can be reached", "server", "site")
    connectors = _replication("connector_up", "1 when a connector counts as up", "connector")
    for each in found["connectors"]:
        connectors.add_metric([each["name"]], float(each["is_up"]))
    came = CounterMetricFamily(
        "pillarbox_replication_received_bytes", "Bytes of frames that came from a server", labels=("server",)
    )
    went = CounterMetricFamily(
        "pillarbox_replication_sent_bytes", "Bytes of frames that were given to a link", labels=("server",)
    )
    for each in found["links"]:
        up.add_metric([each["server"], each["site"]], float(each["is_up"]))
        came.add_metric([each["server"]], each["came_bytes"])
        went.add_metric([each["server"]], each["went_bytes"])
    yield from (stopped, waits, quarantined, backlog, up, connectors, came, went)


def _replication(name: str, text: str, *labels: str) -> Any:
    return GaugeMetricFamily(f"pillarbox_replication_{name}", text, labels=labels)
